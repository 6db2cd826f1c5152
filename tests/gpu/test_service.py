"""The service on a GPU: the pool child of the worker is the only process that touches the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from examples.running_service import RunningService
from ihvp import Client
from solvers import TorchTwiceDifferentiable

pytestmark = [pytest.mark.gpu, pytest.mark.service]


def holds_device(process: psutil.Process) -> bool:
    """Whether a process has a GPU open."""
    links = Path(f"/proc/{process.pid}/fd").iterdir()
    return any(link.exists() and str(link.readlink()).startswith("/dev/nvidia") for link in links)


def test_only_the_worker_child_touches_the_device(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(60, 4, dtype=torch.float64), torch.randint(0, 3, (60,))
    H = TorchTwiceDifferentiable(net, nn.CrossEntropyLoss()).hessian(x, y).numpy()
    with RunningService(tmp_path / "data", device="cuda") as service, Client(service.wait_until_ready()) as client:
        model = client.register_model(
            "on-a-gpu",
            architecture={
                "type": "mlp",
                "config": {"in_features": 4, "hidden": [6], "out_features": 3, "activation": "tanh"},
            },
            weights={name: value.detach() for name, value in net.named_parameters()},
            loss="cross_entropy",
            data={"inputs": x.numpy(), "targets": y.numpy(), "batch_size": 7},
            dtype="float64",
        )
        b = np.random.default_rng(0).normal(size=(2, len(H)))
        for method in ("direct", "cg", "ekfac", "datainf"):
            result = client.solve(
                model=model.reference, rhs=b, method=method, hessian_perturbation=0.5, progress=False
            )
            assert result.provenance.device == "cuda:0"
            if method in ("direct", "cg"):
                expected = np.linalg.solve(H + 0.5 * np.eye(len(H)), b.T).T
                assert np.linalg.norm(result.x - expected) < 1e-6 * np.linalg.norm(expected)
        processes = [psutil.Process(service.pid), *psutil.Process(service.pid).children(recursive=True)]
        (holder,) = [process for process in processes if holds_device(process)]
        parent = holder.parent()
        assert parent is not None
        assert "celery" in " ".join(parent.cmdline())
