"""Products on a GPU: vmapped against looped, data from files, full precision, and what happens without room."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from solvers import Problem, TorchTwiceDifferentiable, influence_scores
from solvers.data import TrainingData
from tests.solvers.cases import batches_of, small_mlp

pytestmark = pytest.mark.gpu

F64 = torch.float64
MIB = 2**20
NAMED_BEFORE = ("allow_tf32", True, False)


@pytest.mark.parametrize("curvature", ["hessian", "ggn", "fisher", "mc_fisher", "empirical_fisher"])
@pytest.mark.parametrize("product", ["graph", "linearized", "recomputed", "forward"])
def test_vmapped_and_looped_products_agree_with_the_processor(
    device: torch.device, curvature: str, product: str
) -> None:
    case = small_mlp(F64)
    V = case.rhs(5)
    expected = Problem(case.model, case.batches(37), curvature=curvature).hessian(1, 5)(V)
    model = TorchTwiceDifferentiable(copy.deepcopy(case.model.model).to(device), case.model.loss)
    for rows in (1, 3, 16):
        problem = Problem(model, case.batches(10), curvature=curvature)
        problem.pin({"product": product, "rows_at_once": rows, "chunk_points": 8})
        found = problem.hessian(1, 5)(V.to(device))
        assert found.device == device
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-9, atol=1e-11)


def test_every_chunk_of_a_mapped_file_arrives_whole(device: torch.device, tmp_path: Path) -> None:
    n, width = 4096, 512
    x = torch.arange(n * width, dtype=torch.float32).reshape(n, width)
    save_file({"x": x, "y": torch.arange(n)}, tmp_path / "points.safetensors")
    mapped = load_file(tmp_path / "points.safetensors")
    data = TrainingData(batches_of(mapped["x"], mapped["y"], 500), memory_budget=0)
    busy = torch.randn(2048, 2048, device=device)
    for _ in range(5):
        start = 0
        for inputs, targets, _ in data.streamed(300, device):
            assert isinstance(inputs, Tensor)
            # Work in the current stream while the next chunk is copied in another.
            for _ in range(4):
                busy = torch.tanh(busy @ busy)
            assert inputs.device == targets.device == device
            stop = start + len(targets)
            assert torch.equal(inputs * 1, x[start:stop].to(device))
            assert torch.equal(targets, torch.arange(start, stop, device=device))
            start = stop
        assert start == n


@pytest.mark.parametrize("curvature", ["hessian", "mc_fisher", "empirical_fisher"])
def test_inputs_by_name_and_sample_weights_go_with_their_points(device: torch.device, curvature: str) -> None:
    class Named(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, rows: Tensor, scale: Tensor) -> Tensor:
            outputs: Tensor = self.inner(rows * scale[:, None])
            return outputs

    case = small_mlp(F64)
    w = torch.rand(len(case.x), dtype=F64)
    scale = torch.rand(len(case.x), dtype=F64)
    data = [
        ({"rows": case.x[i : i + 10], "scale": scale[i : i + 10]}, case.y[i : i + 10], w[i : i + 10])
        for i in range(0, len(w), 10)
    ]
    V = case.rhs(3)
    model = TorchTwiceDifferentiable(Named(case.model.model), case.model.loss)
    expected = Problem(model, data, curvature=curvature).hessian(1, 3)(V)
    there = TorchTwiceDifferentiable(copy.deepcopy(model.model).to(device), case.model.loss)
    problem = Problem(there, data, curvature=curvature, memory_budget=2**20)
    torch.testing.assert_close(problem.hessian(1, 3)(V.to(device)).cpu(), expected, rtol=1e-9, atol=1e-11)
    for method in ("kfac", "datainf"):
        b = V.to(device)
        found = problem.solve(method, b, hessian_perturbation=0.5).x.cpu()
        torch.testing.assert_close(found, Problem(model, data).solve(method, V, hessian_perturbation=0.5).x)


def test_data_that_are_on_the_device_already_stay(device: torch.device) -> None:
    case = small_mlp(F64)
    x, y = case.x.to(device), case.y.to(device)
    for inputs, _, _ in TrainingData([(x, y)], memory_budget=0).streamed(64, device):
        assert inputs.data_ptr() == x.data_ptr()
    model = TorchTwiceDifferentiable(copy.deepcopy(case.model.model).to(device), case.model.loss)
    V = case.rhs(2)
    found = Problem(model, batches_of(x, y, 10)).hessian(1, 2)(V.to(device))
    torch.testing.assert_close(found.cpu().double(), V @ case.H, rtol=1e-9, atol=1e-11)


def test_tf32_is_off_in_products_and_in_methods(device: torch.device) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(512, 256), nn.Tanh(), nn.Linear(256, 64))
    x, y = torch.randn(2048, 512), torch.randint(0, 64, (2048,))
    precise = TorchTwiceDifferentiable(copy.deepcopy(module).double().to(device), nn.CrossEntropyLoss())
    quick = TorchTwiceDifferentiable(module.to(device), nn.CrossEntropyLoss())
    V = torch.randn(2, quick.num_params, device=device)
    expected = Problem(precise, [(x.double(), y)], curvature="ggn").hessian(1, 2)(V.double())
    matmul = torch.backends.cuda.matmul
    # From torch 2.9 on; the two settings must not be mixed.
    name, on, off = ("fp32_precision", "tf32", "ieee") if hasattr(matmul, "fp32_precision") else NAMED_BEFORE
    before = getattr(matmul, name)
    seen: list[object] = []
    try:
        setattr(matmul, name, on)
        problem = Problem(quick, [(x, y)], curvature="ggn")
        found = problem.hessian(1, 2)(V)
        problem.solve("cg", V, hessian_perturbation=1.0, callback=lambda _: seen.append(getattr(matmul, name)))
        assert getattr(matmul, name) == on
    finally:
        setattr(matmul, name, before)
    assert set(seen) == {off}
    # TF32 would leave three digits.
    assert float((found.double() - expected).norm() / expected.norm()) < 2e-5


@contextmanager
def room(device: torch.device, nbytes: int) -> Iterator[None]:
    """As if the device had so many bytes beside what is in use now."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + nbytes) / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()


def wide(device: torch.device, n: int = 16384) -> tuple[TorchTwiceDifferentiable, Any, Tensor]:
    """A network whose activations for all points take 64 MiB a layer."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 1024), nn.Tanh(), nn.Linear(1024, 4))
    model = TorchTwiceDifferentiable(module.to(device), nn.MSELoss())
    data = [(torch.randn(n, 8), torch.randn(n, 4))]
    return model, data, torch.randn(2, model.num_params)


@pytest.mark.parametrize(
    ("method", "options"), [("cg", {"rtol": 1e-4, "atol": 0.0}), ("kfac", {}), ("datainf", {})], ids=str
)
def test_out_of_memory_halves_the_chunk_and_goes_on(
    device: torch.device, method: str, options: dict[str, Any]
) -> None:
    model, data, b = wide(device)
    expected = Problem(model, data, curvature="ggn").solve(method, b, hessian_perturbation=1.0, **options)
    problem = Problem(model, data, curvature="ggn", memory_budget=2**34)
    with room(device, 96 * MIB):
        x, info = problem.solve(method, b, hessian_perturbation=1.0, **options)
    told = " ".join([info["strategy"]["why"], *info["strategy"].get("out_of_memory", [])])
    assert "out of memory with" in told
    assert info["strategy"]["chunk_points"] < 16384
    assert float((x - expected.x).norm() / expected.x.norm()) < 1e-3
    assert [c["status"] for c in info["certificate"]] == [c["status"] for c in expected.info["certificate"]]


def test_influence_scores_go_on_without_room(device: torch.device) -> None:
    model, data, b = wide(device)
    expected = influence_scores(model, data, b)
    problem = Problem(model, data, memory_budget=2**34)
    with room(device, 96 * MIB):
        found = influence_scores(model, problem, b)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
