"""Modules from architecture specs: the built-in ones, and those that an operator installed as plug-ins."""

from __future__ import annotations

from torch import nn

from ihvp.models.architectures import (
    ArchitectureConfig,
    CnnConfig,
    LinearConfig,
    MlpConfig,
    TransformerLmConfig,
)
from workers.architectures.feedforward import build_cnn, build_linear, build_mlp
from workers.architectures.plugins import ArchitecturePlugin, build_plugin, load_plugin
from workers.architectures.transformer import TransformerLm

__all__ = ["ArchitecturePlugin", "build_built_in", "build_plugin", "load_plugin"]


def build_built_in(config: ArchitectureConfig) -> nn.Module:
    """The module of a built-in architecture, its weights random; the names are those of ``config.layout()``."""
    match config:
        case LinearConfig():
            return build_linear(config)
        case MlpConfig():
            return build_mlp(config)
        case CnnConfig():
            return build_cnn(config)
        case TransformerLmConfig():
            return TransformerLm(config)
    raise TypeError(f"no builder for {type(config).__name__}")
