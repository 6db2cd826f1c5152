"""The built-in architectures that are plain sequences of layers: ``linear``, ``mlp``, ``cnn``."""

from __future__ import annotations

import itertools

from torch import nn

from ihvp.models.architectures import CnnConfig, LinearConfig, MlpConfig
from workers.architectures.activations import ACTIVATIONS

__all__ = ["build_cnn", "build_linear", "build_mlp"]


def build_linear(config: LinearConfig) -> nn.Module:
    """A single ``nn.Linear``: ``[n, in_features] → [n, out_features]``."""
    return nn.Linear(config.in_features, config.out_features, bias=config.bias)


def build_mlp(config: MlpConfig) -> nn.Module:
    """Linear layers with activations between them: ``[n, in_features] → [n, out_features]``."""
    activation = ACTIVATIONS[config.activation]
    layers: list[nn.Module] = []
    for width, out in itertools.pairwise([config.in_features, *config.hidden, config.out_features]):
        layers += [nn.Linear(width, out), activation()]
    return nn.Sequential(*layers[:-1])


def build_cnn(config: CnnConfig) -> nn.Module:
    """Convolution blocks, then a Linear: ``[n, in_channels, height, width] → [n, out_features]``."""
    activation = ACTIVATIONS[config.activation]
    layers: list[nn.Module] = []
    for channels, out in itertools.pairwise([config.in_channels, *config.channels]):
        # Average pooling, not maximum: its second derivatives exist everywhere.
        layers += [nn.Conv2d(channels, out, kernel_size=3, padding=1), activation(), nn.AvgPool2d(2)]
    blocks = len(config.channels)
    area = (config.height >> blocks) * (config.width >> blocks)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(config.channels[-1] * area, config.out_features))
