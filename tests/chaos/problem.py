"""A small model with a dense oracle, and jobs of every kind on it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from torch import nn

from ihvp import Client
from ihvp.jobs.record import JobRecord

NAMES: Final = ("chaos-mlp", "chaos-linear")
POINTS: Final = 60


class Problem:
    """Two registered models in float64: an MLP 4-6-3 with tanh, and a softmax regression, on the same points."""

    def __init__(self) -> None:
        torch.manual_seed(7)
        self.nets = {
            "chaos-mlp": nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double(),
            "chaos-linear": nn.Linear(4, 3).double(),
        }
        self.x = torch.randn(POINTS, 4, dtype=torch.float64)
        self.y = torch.randint(0, 3, (POINTS,))
        self.hessians = {name: self._hessian(net) for name, net in self.nets.items()}
        self.sent: dict[str, np.ndarray[Any, Any]] = {}

    def p(self, name: str) -> int:
        """Parameters of a model."""
        return int(self.hessians[name].shape[0])

    def register(self, client: Client) -> None:
        """Registers both; again is the same version."""
        config = {"in_features": 4, "out_features": 3}
        architectures = {
            "chaos-mlp": {"type": "mlp", "config": {**config, "hidden": [6], "activation": "tanh"}},
            "chaos-linear": {"type": "linear", "config": config},
        }
        for name, net in self.nets.items():
            client.register_model(
                name,
                architecture=architectures[name],
                weights={key: value.detach() for key, value in net.named_parameters()},
                loss="cross_entropy",
                data={"inputs": self.x.numpy(), "targets": self.y.numpy(), "batch_size": 7},
                dtype="float64",
            )

    def b(self, name: str, number: int, rows: int | None = None) -> np.ndarray[Any, Any]:
        """Right-hand sides of their own for each number."""
        shape = (self.p(name),) if rows is None else (rows, self.p(name))
        return np.random.default_rng([number, self.p(name)]).normal(size=shape)

    def submission(self, number: int, name: str = "chaos-mlp") -> dict[str, Any]:
        """A job of milliseconds, its b known from its tags."""
        return {
            "model": name,
            "rhs": self.b(name, number),
            "hessian_perturbation": 0.5,
            "tags": {"number": str(number), "rows": "0"},
        }

    def slow(self, terms: int = 8_000, name: str = "chaos-mlp") -> dict[str, Any]:
        """A job of seconds; with ten times the terms, of a minute."""
        return {
            "model": name,
            "rhs": np.ones(self.p(name)),
            "method": "lissa",
            "hessian_perturbation": 0.5,
            "options": {"maxiter": terms, "rtol": 1e-300},
            "tags": {"slow": "1"},
        }

    def residual(self, job: JobRecord, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
        """‖(H+λI)x−b‖/‖b‖ with the dense Hessian, for jobs whose tags say what b was."""
        tags = job.request.tags
        name = (job.request.model.reference or "").partition("@")[0]
        damping = job.request.hessian_perturbation
        if "number" not in tags or name not in self.hessians or not isinstance(damping, float | int):
            return None
        return self.residual_of(name, self.b(name, int(tags["number"]), int(tags["rows"]) or None), float(damping), x)

    def residual_of(
        self, name: str, b: np.ndarray[Any, Any], damping: float, x: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """‖(H+λI)x−b‖/‖b‖ of each row with the dense Hessian."""
        rows = np.atleast_2d(b)
        damped = self.hessians[name] + damping * np.eye(self.p(name))
        left = np.atleast_2d(x) @ damped - rows
        return np.asarray(np.linalg.norm(left, axis=1) / np.linalg.norm(rows, axis=1))

    def _hessian(self, net: nn.Module) -> np.ndarray[Any, Any]:
        parameters = {name: value.detach() for name, value in net.named_parameters()}
        flat = torch.cat([value.reshape(-1) for value in parameters.values()])

        def loss(vector: torch.Tensor) -> torch.Tensor:
            parts = vector.split([value.numel() for value in parameters.values()])
            named = {n: part.view(v.shape) for (n, v), part in zip(parameters.items(), parts, strict=True)}
            return nn.functional.cross_entropy(torch.func.functional_call(net, named, (self.x,)), self.y)

        found: np.ndarray[Any, Any] = torch.autograd.functional.hessian(loss, flat).numpy()
        return found
