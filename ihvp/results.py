"""The blob that holds a result: a safetensors file with the tensor ``x`` and this document in its metadata.

Influence scores lie in a blob of their own, as the tensor ``scores`` of shape ``[k, n]``.
"""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from ihvp.jobs.record import Certificate

__all__ = ["METADATA_KEY", "SCORES_TENSOR", "X_TENSOR", "Provenance", "ResultDocument", "ResultInfo"]

METADATA_KEY: Final = "ihvp"
X_TENSOR: Final = "x"
SCORES_TENSOR: Final = "scores"


class ResultInfo(BaseModel):
    """What the solver says of its work, JSON-ready; a number that is not finite is null."""

    model_config = ConfigDict(extra="allow")

    certificate: list[Certificate]
    method: str
    options: dict[str, Any]
    timings: dict[str, float] = Field(description="Seconds a phase: load, linearise, solve, certify, influence, …")


class Provenance(BaseModel):
    """Enough to run the job again."""

    model_config = ConfigDict(extra="allow")

    job_id: str
    attempt: int
    model: str | None = Field(description="name@version, where a registered model was used.")
    model_digest: str
    weights: str
    data: dict[str, str]
    rhs: dict[str, Any]
    dtype: str
    device: str
    threads: int
    versions: dict[str, str] = Field(description="Of ihvp, torch and Python.")


class ResultDocument(BaseModel):
    """Everything about a result but its numbers."""

    info: ResultInfo
    provenance: Provenance

    def to_metadata(self) -> dict[str, str]:
        """As safetensors metadata, whose values are strings."""
        return {METADATA_KEY: self.model_dump_json()}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> ResultDocument:
        """Reads what ``to_metadata`` wrote."""
        return cls.model_validate(json.loads(metadata[METADATA_KEY]))
