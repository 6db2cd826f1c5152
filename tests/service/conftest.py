"""A client of the shared service, and a small model on it with a dense float64 oracle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from examples.running_service import RunningService
from ihvp import Client
from ihvp.wire import ModelView

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="session")
def client(service: RunningService) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


@dataclass(frozen=True)
class Oracle:
    """A registered model, and what plain torch says about it in float64.

    Attributes:
        model: As the service registered it.
        hessian: Of the mean training loss, ``[p, p]``.
        test_inputs: Points that it was not trained on.
        test_targets: Their labels.
        test_gradients: Of the loss at each, ``[k, p]``.
        training_gradients: Of the loss at each training point, ``[n, p]``.
    """

    model: ModelView
    hessian: Array
    test_inputs: Array
    test_targets: Array
    test_gradients: Array
    training_gradients: Array

    def solve(self, b: Array, damping: float) -> Array:
        """(H + λI)⁻¹ b for the rows of b."""
        damped = self.hessian + damping * np.eye(len(self.hessian))
        return np.linalg.solve(damped, b.T).T


@pytest.fixture(scope="session")
def oracle(client: Client) -> Oracle:
    """A float64 MLP of 4-6-3 with tanh on 60 points, weights as they were drawn."""
    torch.manual_seed(7)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    inputs, targets = torch.randn(64, 4, dtype=torch.float64), torch.randint(0, 3, (64,))
    parameters = {name: value.detach() for name, value in net.named_parameters()}
    flat = torch.cat([value.reshape(-1) for value in parameters.values()])

    def losses(vector: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        parts = vector.split([value.numel() for value in parameters.values()])
        named = {name: part.view(value.shape) for (name, value), part in zip(parameters.items(), parts, strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(net, named, (x,)), y, reduction="none")

    gradients = torch.autograd.functional.jacobian(lambda v: losses(v, inputs, targets), flat)
    hessian = torch.autograd.functional.hessian(lambda v: losses(v, inputs[:60], targets[:60]).mean(), flat)
    model = client.register_model(
        "oracle-mlp",
        architecture={
            "type": "mlp",
            "config": {"in_features": 4, "hidden": [6], "out_features": 3, "activation": "tanh"},
        },
        weights=parameters,
        loss="cross_entropy",
        data={"inputs": inputs[:60].numpy(), "targets": targets[:60].numpy(), "batch_size": 7},
        dtype="float64",
    )
    return Oracle(
        model=model,
        hessian=hessian.numpy(),
        test_inputs=inputs[60:].numpy(),
        test_targets=targets[60:].numpy(),
        test_gradients=gradients[60:].numpy(),
        training_gradients=gradients[:60].numpy(),
    )
