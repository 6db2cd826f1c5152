"""A problem as files, so that every contestant reads the same weights, data and right-hand sides."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ihvp.models.architectures import parse_architecture
from workers.architectures import build_built_in
from workers.resolvers.losses import classes_second

__all__ = ["Problem", "build_module", "read_problem", "write_problem"]


@dataclass(frozen=True)
class Problem:
    """(H + λI) x = b as a contestant gets it.

    Attributes:
        module: The trained network; logits ``[n, classes, ...]``.
        loss: Mean cross-entropy.
        x: Inputs ``[n, ...]``.
        y: Targets ``[n, ...]``.
        damping: λ.
        cold: Right-hand sides ``[k, p]`` of the first solve.
        warm: Those of the second solve.
    """

    module: nn.Module
    loss: nn.CrossEntropyLoss
    x: Tensor
    y: Tensor
    damping: float
    cold: Tensor
    warm: Tensor


def build_module(architecture: dict[str, Any]) -> nn.Module:
    """The network of a spec ``{type, config}``, its classes in the second place."""
    config = parse_architecture(architecture["type"], architecture["config"])
    if config is None:
        raise ValueError(f"{architecture['type']!r} is not built in")
    module = build_built_in(config)
    return classes_second(module) if architecture["type"] == "transformer-lm" else module


def write_problem(
    folder: Path, architecture: dict[str, Any], module: nn.Module, x: Tensor, y: Tensor, damping: float, rhs: Tensor
) -> None:
    """Writes a trained network, its data, and right-hand sides of which the second half is for the warm solve."""
    folder.mkdir(parents=True, exist_ok=True)
    half = rhs.shape[0] // 2
    weights = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    arrays = {"weights": weights, "inputs": x, "targets": y, "cold": rhs[:half], "warm": rhs[half:]}
    for name, tensor in arrays.items():
        np.save(folder / f"{name}.npy", tensor.numpy())
    spec = {"architecture": architecture, "damping": damping}
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")


def read_problem(folder: Path, dtype: torch.dtype, count: int, points: int | None = None) -> Problem:
    """The problem in one dtype with the first ``count`` right-hand sides.

    Args:
        folder: Its files.
        dtype: Of weights, inputs and right-hand sides.
        count: Right-hand sides to read.
        points: Training points: the first ones, or copies of all where there are not so many. All if left out.
    """
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    arrays = {
        name: torch.from_numpy(np.load(folder / f"{name}.npy"))
        for name in ("weights", "inputs", "targets", "cold", "warm")
    }
    module = build_module(spec["architecture"]).to(dtype).eval()
    nn.utils.vector_to_parameters(arrays["weights"].to(dtype), module.parameters())
    x, y = arrays["inputs"], arrays["targets"]
    if points is not None:
        order = torch.arange(points) % x.shape[0]
        x, y = x[order], y[order]
    return Problem(
        module=module,
        loss=nn.CrossEntropyLoss(),
        x=x.to(dtype) if x.is_floating_point() else x,
        y=y,
        damping=spec["damping"],
        cold=arrays["cold"][:count].to(dtype),
        warm=arrays["warm"][:count].to(dtype),
    )
