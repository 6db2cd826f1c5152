"""A model as a caller describes it: architecture, weights, loss, training data, parameters, dtype."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ihvp.errors import UnknownLoss, UnknownParameters
from ihvp.references import ModelName, TensorRef

__all__ = ["LOSSES", "LayoutEntry", "LossSpec", "ModelRecord", "ModelSpec", "build_layout"]

LOSSES: Final = ("cross_entropy", "mse", "bce_with_logits")


def _known_loss(name: str) -> str:
    if name not in LOSSES:
        raise UnknownLoss("No loss has this name.", given=name[:100], allowed=", ".join(LOSSES))
    return name


LossName = Annotated[str, AfterValidator(_known_loss), Field(json_schema_extra={"enum": list(LOSSES)})]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArchitectureSpec(_Strict):
    """Which module: a built-in type or an operator's plug-in, and its config."""

    type: str = Field(min_length=1, max_length=200, examples=["mlp"])
    config: dict[str, Any] = Field(default_factory=dict)


class LossSpec(_Strict):
    """The loss, averaged over the training points."""

    type: LossName
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0, strict=True, description="cross_entropy only.")
    ignore_index: int | None = Field(
        None, ge=-(2**63), lt=2**63, strict=True, description="cross_entropy only: targets that do not count."
    )


class DataSpec(_Strict):
    """The training data: one row a point."""

    inputs: TensorRef
    targets: TensorRef
    batch_size: int = Field(
        1024,
        ge=1,
        le=2**31 - 1,
        strict=True,
        description="Rows of one forward pass; the answer does not depend on it.",
    )


class ParameterSpec(_Strict):
    """Which parameters H is taken over."""

    include: list[Annotated[str, Field(min_length=1, max_length=512)]] = Field(
        default_factory=lambda: ["*"],
        min_length=1,
        max_length=256,
        description="Shell patterns over parameter names; the others are frozen.",
    )


def _named_loss(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class ModelSpec(_Strict):
    """Everything that defines H: two specs with the same digest have the same H."""

    architecture: ArchitectureSpec
    weights: TensorRef = Field(description="A safetensors blob with one tensor a parameter.")
    loss: Annotated[LossSpec, BeforeValidator(_named_loss, json_schema_input_type=LossName | LossSpec)]
    data: DataSpec
    parameters: ParameterSpec = Field(default_factory=ParameterSpec)
    dtype: Literal["float32", "float64"] = Field("float32", description="Precision of the solve.")

    @property
    def digest(self) -> str:
        """sha256 of the spec's canonical JSON, defaults filled in."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()

    def blob_digests(self) -> list[str]:
        """The blobs that the spec refers to."""
        return [ref.partition("#")[0] for ref in (self.weights, self.data.inputs, self.data.targets)]


class LayoutEntry(_Strict):
    """Where a parameter stands in the flat vectors b and x."""

    name: str
    offset: int = Field(description="Index of its first number.")
    shape: list[int]


class ModelRecord(BaseModel):
    """A registered, immutable version of a model."""

    model_config = ConfigDict(frozen=True)

    name: ModelName
    version: int = Field(ge=1)
    digest: str
    spec: ModelSpec
    num_params: int
    num_points: int = Field(description="Training points.")
    layout: list[LayoutEntry]
    created_at: datetime

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


def build_layout(shapes: list[tuple[str, tuple[int, ...]]], include: list[str]) -> list[LayoutEntry]:
    """The layout of the parameters that match one of the patterns, in the given order.

    Raises:
        UnknownParameters: A pattern matches no parameter.
    """
    for pattern in include:
        if not any(fnmatchcase(name, pattern) for name, _ in shapes):
            raise UnknownParameters(
                "A pattern in 'parameters.include' matches no parameter.",
                given=pattern,
                allowed=", ".join(name for name, _ in shapes[:20]) + (", …" if len(shapes) > 20 else ""),
            )
    layout: list[LayoutEntry] = []
    offset = 0
    for name, shape in shapes:
        if any(fnmatchcase(name, pattern) for pattern in include):
            layout.append(LayoutEntry(name=name, offset=offset, shape=list(shape)))
            size = 1
            for side in shape:
                size *= side
            offset += size
    return layout
