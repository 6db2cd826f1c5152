"""Workloads and observations to predict from."""

from __future__ import annotations

from typing import Any

from ihvp.costs.observation import Known, Observation
from ihvp.costs.workload import Task, Workload
from ihvp.methods import Curvature, InversionMethod

HERE, ELSEWHERE = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def task(method: str = "cg", **options: Any) -> Task:
    """A method with its defaults filled in, as the service does."""
    return Task.of(InversionMethod(method), options, "float32")


def workload(p: int = 1000, n: int = 500, k: int = 4, **changes: Any) -> Workload:
    """A model with one weight of p numbers."""
    values: dict[str, Any] = {
        "model": HERE,
        "curvature": Curvature.Hessian,
        "architecture": "mlp",
        "dtype": "float32",
        "num_points": n,
        "batch_size": 100,
        "shapes": ((10, p // 10),),
        "num_params": p,
        "columns": k,
        "damping": 0.1,
    }
    return Workload(**(values | changes))


def observation(method: str = "cg", **changes: Any) -> Observation:
    """A solve of ``workload()`` that took 20 iterations of 1 ms a product, and 50 ms beside them."""
    values: dict[str, Any] = {
        "model": HERE,
        "curvature": Curvature.Hessian,
        "method": InversionMethod(method),
        "architecture": "mlp",
        "dtype": "float32",
        "num_params": 1000,
        "num_points": 500,
        "columns": 4,
        "damping": 0.1,
        "rtol": 1e-5,
        "seconds": 0.05 + 84 * 1e-3,
        "seconds_per_product": 1e-3,
        "products": 84.0,
        "iterations": 20,
        "reached": True,
    }
    return Observation(**(values | changes))


def known(*here: Observation, recent: tuple[Observation, ...] = ()) -> Known:
    return Known(here, (*recent, *here))
