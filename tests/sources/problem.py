"""A linear regression as files, and what plain numpy says about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.app.driver import npy, tensors

DAMPING = 0.1


@dataclass(frozen=True)
class Regression:
    """30 points of 3 features, trained to the optimum."""

    inputs: Any
    targets: Any

    @classmethod
    def make(cls, seed: int = 0) -> Regression:
        rng = np.random.default_rng(seed)
        inputs = rng.normal(size=(30, 3))
        return cls(inputs, inputs @ np.array([[1.0], [2.0], [3.0]]) + 0.1 * rng.normal(size=(30, 1)))

    @property
    def files(self) -> dict[str, bytes]:
        solution = np.linalg.lstsq(self.inputs, self.targets, rcond=None)[0]
        return {
            "weights.safetensors": tensors(weight=solution.T),
            "data.safetensors": tensors(x=self.inputs, y=self.targets),
            "b.npy": npy(self.b),
        }

    @property
    def b(self) -> Any:
        return np.array([1.0, -2.0, 0.5])

    @property
    def x(self) -> Any:
        hessian = 2 * self.inputs.T @ self.inputs / len(self.inputs)
        return np.linalg.solve(hessian + DAMPING * np.eye(3), self.b)


def spec(weights: str, data: str, **changes: Any) -> dict[str, Any]:
    """A spec that takes its files from where the URIs say."""
    return {
        "architecture": {"type": "linear", "config": {"in_features": 3, "out_features": 1, "bias": False}},
        "weights": weights,
        "loss": "mse",
        "data": {"inputs": f"{data}#x", "targets": f"{data}#y"},
        "dtype": "float64",
        **changes,
    }
