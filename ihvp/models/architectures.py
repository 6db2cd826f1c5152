"""The built-in architectures as typed configs, with the parameters each one has (no tensors are made here).

The names and shapes are those of the equivalent torch modules, so weights saved from a plain
``nn.Sequential`` fit. The worker builds the modules; a test holds that both agree.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from importlib.metadata import entry_points
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ihvp.errors import InvalidArchitecture, UnknownArchitecture

__all__ = [
    "BUILT_IN",
    "ENTRY_POINT_GROUP",
    "TRANSFORMERS",
    "ArchitectureConfig",
    "CnnConfig",
    "LinearConfig",
    "MlpConfig",
    "TransformerLmConfig",
    "architecture_names",
    "parse_architecture",
]

ENTRY_POINT_GROUP: Final = "ihvp.architectures"
TRANSFORMERS: Final = "transformers"
"""A model of transformers whose ``config.json`` is sent as the config: see ``ihvp.models.huggingface``."""
Shape = tuple[int, ...]
Activation = Literal["relu", "tanh", "gelu", "sigmoid", "silu"]
Width = int


class ArchitectureConfig(BaseModel):
    """Config of a built-in architecture; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @abstractmethod
    def layout(self) -> list[tuple[str, Shape]]:
        """Names and shapes of all parameters, in the order of ``named_parameters()``."""

    @abstractmethod
    def input_shape(self) -> Shape | None:
        """Shape of one input, without the batch; None where it may vary."""

    @abstractmethod
    def output_shape(self) -> Shape | None:
        """Shape of one output, without the batch; None where it may vary."""


def _affine(prefix: str, out_features: int, *in_shape: int, bias: bool = True) -> list[tuple[str, Shape]]:
    weight: list[tuple[str, Shape]] = [(f"{prefix}weight", (out_features, *in_shape))]
    return [*weight, (f"{prefix}bias", (out_features,))] if bias else weight


class LinearConfig(ArchitectureConfig):
    """``nn.Linear``: linear, logistic and softmax regression."""

    in_features: int = Field(ge=1)
    out_features: int = Field(ge=1)
    bias: bool = True

    def layout(self) -> list[tuple[str, Shape]]:
        """``weight`` and ``bias``."""
        return _affine("", self.out_features, self.in_features, bias=self.bias)

    def input_shape(self) -> Shape:
        """``(in_features,)``."""
        return (self.in_features,)

    def output_shape(self) -> Shape:
        """``(out_features,)``."""
        return (self.out_features,)


class MlpConfig(ArchitectureConfig):
    """``nn.Sequential`` of Linear and activation in turn; its layers are ``0``, ``2``, ``4``, …"""

    in_features: int = Field(ge=1)
    hidden: list[int] = Field(min_length=1, max_length=64)
    out_features: int = Field(ge=1)
    activation: Activation = "relu"

    @model_validator(mode="after")
    def _positive_widths(self) -> MlpConfig:
        if min(self.hidden) < 1:
            raise ValueError("every width in 'hidden' must be at least 1")
        return self

    def layout(self) -> list[tuple[str, Shape]]:
        """``0.weight``, ``0.bias``, ``2.weight``, …"""
        widths = [self.in_features, *self.hidden, self.out_features]
        return [
            entry
            for layer, (width, out) in enumerate(itertools.pairwise(widths))
            for entry in _affine(f"{2 * layer}.", out, width)
        ]

    def input_shape(self) -> Shape:
        """``(in_features,)``."""
        return (self.in_features,)

    def output_shape(self) -> Shape:
        """``(out_features,)``."""
        return (self.out_features,)


class CnnConfig(ArchitectureConfig):
    """Blocks of 3×3 convolution, activation and 2×2 average pooling, then flatten and a Linear.

    As an ``nn.Sequential``: block ``i`` has its convolution at ``3i``; the Linear stands last.
    """

    in_channels: int = Field(ge=1)
    height: int = Field(ge=2)
    width: int = Field(ge=2)
    channels: list[int] = Field(min_length=1, max_length=16)
    out_features: int = Field(ge=1)
    activation: Activation = "relu"

    @model_validator(mode="after")
    def _large_enough(self) -> CnnConfig:
        if min(self.channels) < 1:
            raise ValueError("every entry of 'channels' must be at least 1")
        if min(self.height, self.width) >> len(self.channels) < 1:
            raise ValueError(f"{len(self.channels)} poolings leave nothing of {self.height}×{self.width}")
        return self

    def layout(self) -> list[tuple[str, Shape]]:
        """``0.weight``, ``0.bias``, ``3.weight``, …, then the Linear after the flatten."""
        chain = [self.in_channels, *self.channels]
        found = [
            entry
            for block, (channels, out) in enumerate(itertools.pairwise(chain))
            for entry in _affine(f"{3 * block}.", out, channels, 3, 3)
        ]
        blocks = len(self.channels)
        area = (self.height >> blocks) * (self.width >> blocks)
        return [*found, *_affine(f"{3 * blocks + 1}.", self.out_features, self.channels[-1] * area)]

    def input_shape(self) -> Shape:
        """``(in_channels, height, width)``."""
        return (self.in_channels, self.height, self.width)

    def output_shape(self) -> Shape:
        """``(out_features,)``."""
        return (self.out_features,)


class TransformerLmConfig(ArchitectureConfig):
    """A small decoder-only language model: token and position embeddings, pre-norm blocks, untied head.

    Inputs are token ids ``[context]`` (int64), outputs logits ``[context, vocabulary]``.
    """

    vocabulary: int = Field(ge=2)
    context: int = Field(ge=1)
    width: int = Field(ge=1)
    heads: int = Field(ge=1)
    layers: int = Field(ge=1, le=64)
    mlp_ratio: int = Field(4, ge=1, le=16)

    @model_validator(mode="after")
    def _whole_heads(self) -> TransformerLmConfig:
        if self.width % self.heads:
            raise ValueError(f"'width' {self.width} is not a multiple of 'heads' {self.heads}")
        return self

    def layout(self) -> list[tuple[str, Shape]]:
        """``tokens.weight``, ``positions.weight``, ``blocks.0.…``, ``norm.…``, ``head.weight``."""
        width, inner = self.width, self.mlp_ratio * self.width
        found: list[tuple[str, Shape]] = [
            ("tokens.weight", (self.vocabulary, width)),
            ("positions.weight", (self.context, width)),
        ]
        for layer in range(self.layers):
            block = f"blocks.{layer}."
            found += _affine(f"{block}attention_norm.", width)
            found += _affine(f"{block}attention.qkv.", 3 * width, width)
            found += _affine(f"{block}attention.out.", width, width)
            found += _affine(f"{block}mlp_norm.", width)
            found += _affine(f"{block}mlp.0.", inner, width)
            found += _affine(f"{block}mlp.2.", width, inner)
        return [*found, *_affine("norm.", width), ("head.weight", (self.vocabulary, width))]

    def input_shape(self) -> None:
        """Sequences may be shorter than the context."""

    def output_shape(self) -> None:
        """As long as the input."""


BUILT_IN: Final[dict[str, type[ArchitectureConfig]]] = {
    "linear": LinearConfig,
    "mlp": MlpConfig,
    "cnn": CnnConfig,
    "transformer-lm": TransformerLmConfig,
}


def architecture_names(extra: tuple[str, ...] = ()) -> list[str]:
    """All architectures that may be named: built-in, ``transformers``, plug-ins (not imported), and ``extra``."""
    plugins = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}
    return sorted({*BUILT_IN, TRANSFORMERS, *plugins, *extra})


def parse_architecture(kind: str, config: dict[str, Any], extra: tuple[str, ...] = ()) -> ArchitectureConfig | None:
    """The checked config of a built-in architecture; None for a plug-in, whose worker checks it.

    Raises:
        UnknownArchitecture: The operator does not offer this type.
        InvalidArchitecture: The config does not describe such a module.
    """
    if kind not in BUILT_IN:
        names = architecture_names(extra)
        if kind in names:
            return None
        raise UnknownArchitecture(
            "No architecture of this type is offered here.",
            given=kind[:200],
            allowed=", ".join(names),
            hint=f"An operator adds one with a package that has an entry point in {ENTRY_POINT_GROUP!r}.",
        )
    try:
        return BUILT_IN[kind].model_validate(config)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'config'}: {fault['msg']}" for fault in error.errors()[:5]
        )
        raise InvalidArchitecture(
            f"The config does not describe a {kind!r}: {faults}.",
            allowed=", ".join(BUILT_IN[kind].model_fields),
        ) from None


def num_elements(shape: Shape) -> int:
    """How many numbers a tensor of this shape holds."""
    return math.prod(shape)
