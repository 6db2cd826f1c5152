"""A model as a caller describes it: architecture, weights, loss, training data, parameters, dtype."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ihvp.errors import InvalidAdapter, InvalidArchitecture, LossMismatch, UnknownParameters
from ihvp.models.architectures import TRANSFORMERS
from ihvp.models.losses import LOSSES, LossSpec, loss_names
from ihvp.models.points import DataSpec
from ihvp.references import FolderRef, ModelName, WeightsRef, blobs_among, exported_blob
from ihvp.sources.pin import SourcePins, check_pinned_uris
from ihvp.sources.uri import is_source_uri

__all__ = ["LOSSES", "LayoutEntry", "LossSpec", "ModelRecord", "ModelSpec", "build_layout"]

LATER_FIELDS: Final[dict[str, Any]] = {
    "sources": {},
    "data.weights": None,
    "data.index": None,
    "loss.pos_weight": None,
    "loss.config": {},
    "parameters.adapter": None,
}
"""Fields that came after the first version, by their dotted path, with what they hold where nobody uses them: a spec
without them keeps the digest that it had before there were any."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArchitectureSpec(_Strict):
    """Which module: a built-in type or an operator's plug-in, and its config."""

    type: str = Field(min_length=1, max_length=200, examples=["mlp"])
    config: dict[str, Any] = Field(default_factory=dict)


class ParameterSpec(_Strict):
    """Which parameters H is taken over."""

    include: list[Annotated[str, Field(min_length=1, max_length=512)]] = Field(
        default_factory=lambda: ["*"],
        min_length=1,
        max_length=256,
        description="Shell patterns over parameter names; the others are frozen.",
    )
    adapter: FolderRef | None = Field(
        None,
        description="A LoRA adapter in peft's layout, put on the model and not merged: the parameters are then "
        "its own, and all of the model's are frozen.",
    )


def _named_loss(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class ModelSpec(_Strict):
    """Everything that defines H: two specs with the same digest have the same H."""

    architecture: ArchitectureSpec | None = Field(
        None,
        description="Left out only where the weights say it themselves: a folder in Hugging Face layout, an export.",
    )
    weights: WeightsRef
    loss: Annotated[LossSpec | None, BeforeValidator(_named_loss, json_schema_input_type=str | LossSpec | None)] = (
        Field(None, description="Left out only where the model says its own.")
    )
    data: DataSpec
    parameters: ParameterSpec = Field(default_factory=ParameterSpec)
    dtype: Literal["float32", "float64"] = Field("float32", description="Precision of the solve.")
    sources: Annotated[SourcePins, AfterValidator(check_pinned_uris)] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 of the spec's canonical JSON, defaults filled in but those of ``LATER_FIELDS``."""
        document = self.model_dump(mode="json")
        for path, unused in LATER_FIELDS.items():
            *parents, name = path.split(".")
            place: dict[str, Any] | None = document
            for parent in parents:
                place = (place or {}).get(parent)
            if place and name in place and place[name] == unused:
                del place[name]
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def kind(self) -> str:
        """The architecture's type, or how its weights name it."""
        if self.exported is not None:
            return "export"
        return "folder" if self.architecture is None else self.architecture.type

    @property
    def pretrained(self) -> bool:
        """Whether it is a model of transformers, by a folder or by a config that is sent with it."""
        named = self.architecture is not None and self.architecture.type == TRANSFORMERS
        return named or (self.architecture is None and self.exported is None)

    @property
    def exported(self) -> str | None:
        """The blob of the exported program that it is; None where it is none."""
        return exported_blob(self.weights)

    @model_validator(mode="after")
    def _one_architecture(self) -> ModelSpec:
        if self.exported is not None and self.architecture is not None:
            raise InvalidArchitecture(
                "An exported program is its own architecture.",
                given=f"architecture {self.architecture.type!r} beside {self.weights}",
                hint="Leave out architecture.",
            )
        if self.parameters.adapter is not None and not self.pretrained:
            raise InvalidAdapter(
                "An adapter belongs to a model of transformers.",
                given=f"an adapter beside {self.kind!r}",
                allowed="weights that name a folder in Hugging Face layout, or architecture 'transformers'",
            )
        return self

    def stated_architecture(self) -> ArchitectureSpec:
        """The architecture, of a spec whose weights do not say it.

        Raises:
            InvalidArchitecture: It has none.
        """
        if self.architecture is None:
            raise InvalidArchitecture(
                "A file of weights does not say what module it belongs to.",
                given=f"weights {self.weights[:200]} without an architecture",
                allowed="architecture, or weights that name a folder in Hugging Face layout or an export",
                hint=f"The config.json of a model of transformers may be sent as config of type {TRANSFORMERS!r}.",
            )
        return self.architecture

    def stated_loss(self) -> LossSpec:
        """The loss, of a model that does not say it itself.

        Raises:
            LossMismatch: It has no loss.
        """
        if self.loss is None:
            raise LossMismatch("The model does not say its loss itself.", allowed=f"loss: {', '.join(loss_names())}")
        return self.loss

    def references(self) -> list[str]:
        """Every reference of the spec, as it is written: to blobs and to files elsewhere."""
        adapter = self.parameters.adapter
        return [self.weights, *self.data.references(), *([] if adapter is None else [adapter])]

    def blob_digests(self) -> list[str]:
        """The blobs that the spec refers to."""
        return blobs_among(self.references())

    def source_uris(self) -> list[str]:
        """The URIs of files and folders that the spec refers to, each once, without ``#name``."""
        return list(dict.fromkeys(uri for ref in self.references() if is_source_uri(uri := ref.partition("#")[0])))


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
