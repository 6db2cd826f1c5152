"""The blob that holds a result: a safetensors file with the tensor ``x`` and this document in its metadata.

Influence scores lie in a blob of their own, as the tensor ``scores`` of shape ``[k, n]``.
"""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from ihvp.jobs.record import Certificate
from ihvp.perturbation import Perturbation
from ihvp.sources.pin import SourcePin

__all__ = ["METADATA_KEY", "SCORES_TENSOR", "X_TENSOR", "LossCheck", "Provenance", "ResultDocument", "ResultInfo"]

METADATA_KEY: Final = "ihvp"
X_TENSOR: Final = "x"
SCORES_TENSOR: Final = "scores"


class LossCheck(BaseModel):
    """Loss and gradient of a model at the first of its training points."""

    points: int
    mean_loss: float | None
    gradient_norm: float | None = Field(description="Of the gradient of that mean loss.")
    uninformed_loss: float | None = Field(
        description="Mean loss of one answer for every point, such as the logarithm of the number of classes; null "
        "where it is not known."
    )


class ResultInfo(BaseModel):
    """What the solver says of its work, JSON-ready; a number that is not finite is null."""

    model_config = ConfigDict(extra="allow")

    certificate: list[Certificate]
    method: str
    options: dict[str, Any]
    timings: dict[str, float] = Field(description="Seconds a phase: load, linearise, solve, certify, influence, …")
    loss_check: LossCheck | None = Field(None, description="Whether the model is trained.")


class Provenance(BaseModel):
    """Enough to run the job again, also where nothing but this document is left.

    What came later than the first results is empty in theirs.
    """

    model_config = ConfigDict(extra="allow")

    job_id: str
    attempt: int
    given: str | None = Field(None, description="The model's reference as it was sent; null for a spec sent inline.")
    model: str | None = Field(description="name@version, where a registered model was used.")
    model_digest: str
    spec: dict[str, Any] | None = Field(
        None,
        description="The whole model: architecture, weights, loss, data, parameters, dtype, and where its sources "
        "were pinned, all by digest.",
    )
    weights: str
    data: dict[str, Any]
    rhs: dict[str, Any]
    method: str | None = None
    options: dict[str, Any] | None = Field(None, description="After the service's defaults; the seed is among them.")
    seed: int | None = Field(None, description="Of the method's random numbers; null where it draws none.")
    hessian_perturbation: Perturbation | None = None
    curvature: str | None = None
    influence: bool | None = None
    sources: dict[str, SourcePin] = Field(
        default_factory=dict, description="Files outside the blob store, by URI, with the digests of their bytes."
    )
    dtype: str
    device: str
    device_name: str | None = Field(None, description="The processor's or the GPU's name.")
    threads: int
    warm_model: bool | None = Field(
        None, description="Whether earlier jobs had left what a solve can start from: then the last bits may differ."
    )
    versions: dict[str, str] = Field(
        description="Of ihvp, Python, torch, numpy and safetensors; of transformers, peft and pyarrow where used."
    )


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
