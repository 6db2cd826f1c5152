"""The activations that built-in architectures may name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import nn

__all__ = ["ACTIVATIONS"]

ACTIVATIONS: Final[dict[str, Callable[[], nn.Module]]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}
