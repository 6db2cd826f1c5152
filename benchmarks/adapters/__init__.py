"""One module a contestant, run in that contestant's own environment: only torch, numpy and pydantic are shared."""
