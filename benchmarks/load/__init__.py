"""What the service sustains, beside the least that FastAPI and Redis could do on the same machine."""
