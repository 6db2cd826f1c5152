"""What a caller submits, and what it becomes once every reference in it is resolved."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ihvp.methods import Curvature, InversionMethod, parse_method
from ihvp.models.points import PointsSpec
from ihvp.models.spec import ModelSpec
from ihvp.perturbation import Perturbation
from ihvp.references import TensorRef, blobs_among
from ihvp.sources.pin import SourcePins, check_pinned_uris
from ihvp.sources.uri import is_source_uri
from ihvp.webhooks.spec import WebhookSpec

__all__ = [
    "GradientOf",
    "InfluenceRequest",
    "JobRequest",
    "JobSubmission",
    "Priority",
    "ResolvedModel",
    "ResolvedRhs",
    "RhsSpec",
]

# Strict: "1.5" and true are not numbers. Failing fast: a body of a million faults costs one of them.
Number = Annotated[float, Field(strict=True)]
Row = Annotated[list[Number], Field(fail_fast=True)]
InlineRows = Row | Annotated[list[Row], Field(fail_fast=True)]
Tags = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=64)],
        Annotated[str, Field(max_length=256)],
    ],
    Field(max_length=32),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Priority(str, Enum):
    """How soon a job is taken; waiting raises a job past later ones of a higher priority."""

    Low = "low"
    Normal = "normal"
    High = "high"


class GradientOf(PointsSpec):
    """Right-hand sides that are gradients of the loss: one row for each point."""


class RhsSpec(_Strict):
    """The right-hand sides, in exactly one of three forms."""

    inline: InlineRows | None = Field(None, description="[p] or [k, p] numbers.")
    blob: TensorRef | None = Field(
        None, description="npy or safetensors: one tensor [p] or [k, p], or one tensor a parameter."
    )
    gradient_of: GradientOf | None = Field(None, description="b = ∇ loss at each of these points: [k, p].")
    sources: Annotated[SourcePins, AfterValidator(check_pinned_uris)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _exactly_one(self) -> RhsSpec:
        given = [name for name in ("inline", "blob", "gradient_of") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of inline, blob, gradient_of; given: {given or 'none'}")
        return self

    def references(self) -> list[str]:
        """Every reference in it, as it is written."""
        return _references(self.blob, self.gradient_of)

    def blob_digests(self) -> list[str]:
        """The blobs that it names."""
        return blobs_among(self.references())

    def source_uris(self) -> list[str]:
        """The URIs of files that it names, each once, without ``#name``."""
        return list(dict.fromkeys(uri for ref in self.references() if is_source_uri(uri := ref.partition("#")[0])))


def _references(blob: str | None, points: GradientOf | None) -> list[str]:
    return [*([] if points is None else points.references()), *([] if blob is None else [blob])]


class InfluenceRequest(_Strict):
    """Asks for scores of the training points on each solution."""

    on: Literal["training"] = "training"


def _known_method(name: str) -> str:
    return parse_method(name).value


class JobSubmission(_Strict):
    """The body of ``POST /v1/jobs``."""

    model: str | ModelSpec = Field(
        description="name, name@version, name@latest, or the spec itself.", examples=["digits-mlp@1"]
    )
    rhs: RhsSpec
    method: Annotated[
        str,
        AfterValidator(_known_method),
        Field(json_schema_extra={"enum": [m.value for m in InversionMethod]}),
    ] = "cg"
    hessian_perturbation: Perturbation = Field(
        0.0,
        description='λ in (H + λI) x = b: a number; "auto", the smallest that makes H + λI safely positive definite; '
        "or a λ by shell patterns over parameter names, of which the last one that matches counts.",
        examples=[0.01, "auto", {"*": 0.01, "2.*": 0.1}],
    )
    options: dict[str, Any] = Field(default_factory=dict, description="The method's options: GET /v1/methods.")
    curvature: Curvature = Field(Curvature.Hessian, description="What H is.")
    influence: InfluenceRequest | None = None
    priority: Priority = Priority.Normal
    deadline_s: Number | None = Field(
        None,
        gt=0,
        le=30 * 24 * 3600,
        allow_inf_nan=False,
        description="Seconds from submit until it expires.",
    )
    tags: Tags = Field(default_factory=dict)
    webhook: WebhookSpec | None = Field(None, description="Who is told about the job, by signed HTTP requests.")


class ResolvedModel(_Strict):
    """The model a job runs on, pinned by digest."""

    reference: str | None = Field(description="name@version; null for a spec that was sent inline.")
    given: str | None = Field(None, description="The reference as it was sent, such as name@latest.")
    digest: str
    num_params: int
    spec: ModelSpec


class ResolvedRhs(_Strict):
    """Where a worker finds the right-hand sides, and the shape that x will have."""

    blob: TensorRef | None = None
    gradient_of: GradientOf | None = None
    shape: list[int] = Field(description="[p] or [k, p].")
    sources: SourcePins = Field(default_factory=dict)

    def blob_digests(self) -> list[str]:
        """The blobs that it names."""
        return blobs_among(_references(self.blob, self.gradient_of))

    @property
    def columns(self) -> int:
        """Number of right-hand sides."""
        return 1 if len(self.shape) == 1 else self.shape[0]


class JobRequest(_Strict):
    """A submission with everything resolved: immutable from here on, and enough to run it again."""

    model: ResolvedModel
    rhs: ResolvedRhs
    method: InversionMethod
    hessian_perturbation: Perturbation
    options: dict[str, Any] = Field(description="After the service's defaults.")
    curvature: Curvature
    influence: InfluenceRequest | None
    priority: Priority
    deadline_s: float | None
    tags: dict[str, str]
    webhook: WebhookSpec | None = None

    def blob_digests(self) -> list[str]:
        """The blobs that the job needs while it lives."""
        return self.rhs.blob_digests() + self.model.spec.blob_digests()
