"""Models, data and jobs that the workers' tests submit, and the dense oracle that answers are held to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from ulid import ULID

from ihvp.blobs.store import BlobStore
from ihvp.jobs.submission import GradientOf, InfluenceRequest, JobRequest, Priority, ResolvedModel, ResolvedRhs
from ihvp.methods import InversionMethod
from ihvp.models.spec import ModelSpec


def put(blobs: BlobStore, content: bytes) -> str:
    """Stores bytes; returns their digest."""
    with blobs.writer() as writer:
        writer.write(content)
        return writer.commit().digest


def put_tensors(blobs: BlobStore, **tensors: Tensor) -> str:
    """Stores tensors as a safetensors blob."""
    return put(blobs, save({name: tensor.clone().contiguous() for name, tensor in tensors.items()}))


def put_npy(blobs: BlobStore, folder: Path, array: np.ndarray[Any, Any]) -> str:
    """Stores an array as an npy blob."""
    path = folder / "array.npy"
    np.save(path, array)
    return put(blobs, path.read_bytes())


@dataclass(frozen=True)
class Example:
    """A trained model and its data, in memory."""

    architecture: dict[str, Any]
    module: nn.Module
    x: Tensor
    y: Tensor
    loss: str = "cross_entropy"
    dtype: str = "float64"

    def upload(self, blobs: BlobStore, **changes: Any) -> ModelSpec:
        """Its spec, once its tensors are stored."""
        data = put_tensors(blobs, inputs=self.x, targets=self.y)
        fields = {
            "architecture": self.architecture,
            "weights": put_tensors(blobs, **self.module.state_dict()),
            "loss": self.loss,
            "data": {"inputs": f"{data}#inputs", "targets": f"{data}#targets", "batch_size": 500},
            "dtype": self.dtype,
        }
        return ModelSpec.model_validate({**fields, **changes})

    @property
    def num_params(self) -> int:
        """The length p."""
        return sum(p.numel() for p in self.module.parameters())

    def mean_loss(self, flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The training loss as a function of the flat parameters."""
        values, start = {}, 0
        for name, parameter in self.module.named_parameters():
            values[name] = flat[start : start + parameter.numel()].reshape(parameter.shape)
            start += parameter.numel()
        outputs = torch.func.functional_call(self.module, values, (x,))
        return nn.functional.cross_entropy(outputs, y)

    @property
    def flat(self) -> Tensor:
        """The trained parameters in float64."""
        return torch.cat([p.detach().double().reshape(-1) for p in self.module.parameters()])

    def hessian(self) -> Tensor:
        """The dense Hessian in float64, column by column, from torch's own forward-over-reverse."""
        x, y, flat = self.x.double(), self.y, self.flat
        gradient = torch.func.grad(lambda v: self.mean_loss(v, x, y))
        column = lambda direction: torch.func.jvp(gradient, (flat,), (direction,))[1]  # noqa: E731
        return torch.vmap(column, chunk_size=64)(torch.eye(len(flat), dtype=flat.dtype))

    def gradients(self, x: Tensor, y: Tensor) -> Tensor:
        """Each point's gradient in float64."""
        return torch.stack(
            [
                torch.func.grad(lambda v, i=i: self.mean_loss(v, x[i : i + 1].double(), y[i : i + 1]))(self.flat)
                for i in range(len(x))
            ]
        )


def digits_mlp(points: int = 300, hidden: int = 8) -> Example:
    """An MLP trained on scikit-learn's digits: about a second."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images[:points] / 16.0, dtype=torch.float32)
    y = torch.tensor(labels[:points], dtype=torch.int64)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    architecture = {
        "type": "mlp",
        "config": {"in_features": 64, "hidden": [hidden], "out_features": 10, "activation": "tanh"},
    }
    return Example(architecture, module, x, y)


def softmax_regression(points: int, features: int, classes: int) -> Example:
    """A convex problem of any size, so ill-conditioned that conjugate gradients have to work for it."""
    generator = torch.Generator().manual_seed(1)
    scales = torch.logspace(0, -3, features)
    x = torch.randn(points, features, generator=generator) * scales
    y = torch.randint(0, classes, (points,), generator=generator)
    torch.manual_seed(0)
    config = {"in_features": features, "out_features": classes}
    return Example({"type": "linear", "config": config}, nn.Linear(features, classes), x, y)


def job_request(spec: ModelSpec, num_params: int, rhs: ResolvedRhs, **changes: Any) -> JobRequest:
    """A resolved request as the API makes them."""
    fields = {
        "model": ResolvedModel(reference=None, digest=spec.digest, num_params=num_params, spec=spec),
        "rhs": rhs,
        "method": InversionMethod.Cg,
        "hessian_perturbation": 0.1,
        "options": {},
        "curvature": "hessian",
        "influence": None,
        "priority": Priority.Normal,
        "deadline_s": None,
        "tags": {},
    }
    return JobRequest(**{**fields, **changes})


def new_id() -> str:
    """A job id as the API makes them."""
    return f"job_{ULID()}"


__all__ = [
    "Example",
    "GradientOf",
    "InfluenceRequest",
    "ResolvedRhs",
    "digits_mlp",
    "job_request",
    "new_id",
    "put",
    "put_npy",
    "put_tensors",
    "replace",
    "softmax_regression",
]
