"""Where memory runs out: fewer points go at a time, the answer is the same, and info says so."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ihvp.errors import OutOfMemory
from solvers import Problem, TorchTwiceDifferentiable, influence_scores, loss_gradients, solve_hvp
from solvers.out_of_memory import is_out_of_memory
from tests.solvers.cases import Case, small_mlp

F64 = torch.float64
CPU_WORDS = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
SHORTAGES = [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU_WORDS), MemoryError()]


class Small(nn.Module):
    """A model on a device that has room for so many points of it at a time."""

    def __init__(self, inner: nn.Module, most: int, error: Exception) -> None:
        super().__init__()
        self.inner, self.most, self.error = inner, most, error
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        # Under vmap each point looks like a batch of one.
        functorch = torch._C._functorch
        points = (functorch.get_unwrapped(x) if functorch.is_batchedtensor(x) else x).shape[0]
        self.seen.append(points)
        if points > self.most:
            raise self.error
        output: Tensor = self.inner(x)
        return output


def small(case: Case, most: int, error: Exception) -> TorchTwiceDifferentiable:
    return TorchTwiceDifferentiable(Small(case.model.model, most, error), case.model.loss)


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("direct", {}),
    ("cg", {"rtol": 1e-10, "atol": 0.0}),
    ("cg", {"rtol": 1e-10, "atol": 0.0, "preconditioner": "ekfac"}),
    ("minres", {"rtol": 1e-10}),
    ("lissa", {"scale": 4.0, "maxiter": 30}),
    ("lissa", {"scale": None, "maxiter": 30}),
    ("arnoldi", {"rank_estimate": 51}),
    ("nystrom", {"rank": 51}),
    ("kfac", {}),
    ("ekfac", {}),
    ("datainf", {}),
    ("auto", {}),
]


@pytest.mark.parametrize(("method", "options"), METHODS, ids=str)
@pytest.mark.parametrize("error", SHORTAGES, ids=lambda e: type(e).__name__)
def test_every_method_goes_on_with_fewer_points_at_a_time(
    method: str, options: dict[str, Any], error: Exception
) -> None:
    case = small_mlp(F64)
    b = case.rhs(2)
    expected = solve_hvp(method, case.model, case.batches(37), b, hessian_perturbation=case.damping, **options)
    model = small(case, 10, error)
    x, info = solve_hvp(method, model, case.batches(37), b, hessian_perturbation=case.damping, **options)
    assert max(model.model.seen) == 37
    assert float((x - expected.x).norm() / expected.x.norm()) < 1e-7
    for mine, theirs in zip(info["certificate"], expected.info["certificate"], strict=True):
        assert mine["status"] == theirs["status"]
    told = [*info["strategy"].get("out_of_memory", []), info["strategy"]["why"]]
    assert "the first pass: out of memory with 37 points at a time, then 18" in told
    assert "37 points" in told[-1]
    assert info["strategy"]["chunk_points"] == 9


@pytest.mark.parametrize("method", ["kfac", "ekfac", "datainf"])
def test_passes_over_single_points_say_how_they_went_on(method: str) -> None:
    case = small_mlp(F64)
    model = small(case, 10, SHORTAGES[0])
    info = solve_hvp(method, model, case.batches(37), case.rhs(1), hessian_perturbation=1.0).info
    what = {"datainf": "gradients of single points"}.get(method, "Kronecker factors")
    assert f"{what}: out of memory with 37 points at a time, then 18" in info["strategy"]["out_of_memory"]
    assert f"{what}: out of memory with 18 points at a time, then 9" in info["strategy"]["out_of_memory"]


def test_minibatches_say_how_they_went_on() -> None:
    case = small_mlp(F64)
    model = small(case, 10, SHORTAGES[0])
    options = {"scale": 4.0, "maxiter": 5}
    info = solve_hvp("lissa", model, case.batches(20), case.rhs(1), hessian_perturbation=1.0, **options).info
    assert "minibatches: out of memory with 20 points at a time, then 10" in info["strategy"]["out_of_memory"]


@pytest.mark.parametrize("curvature", ["ggn", "fisher", "mc_fisher", "empirical_fisher"])
@pytest.mark.parametrize("strategy", ["graph", "linearized", "recomputed", "forward"])
def test_every_curvature_and_strategy(curvature: str, strategy: Any) -> None:
    case = small_mlp(F64)
    V = case.rhs(3)
    expected = Problem(case.model, case.batches(37), curvature=curvature).hessian(1, 3)(V)
    problem = Problem(small(case, 10, SHORTAGES[0]), case.batches(37), curvature=curvature, strategy=strategy)
    found = problem.hessian(1, 3)(V)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_influence_scores_go_on_too() -> None:
    case = small_mlp(F64)
    b = case.rhs(2)
    expected = influence_scores(case.model, case.batches(37), b)
    model = small(case, 10, SHORTAGES[1])
    torch.testing.assert_close(influence_scores(model, case.batches(37), b), expected, rtol=1e-10, atol=1e-12)
    assert model.model.seen[-10:] == [9] * 8 + [1] * 2  # 37 = 4 · 9 + 1, two rows each


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda e: type(e).__name__)
def test_past_one_point_the_error_says_what_to_try(error: Exception) -> None:
    case = small_mlp(F64)
    model = small(case, 0, error)
    with pytest.raises(OutOfMemory, match=r"Not even one training point.*fewer right-hand sides"):
        Problem(model, case.batches(37))
    model.model.most = 37
    problem = Problem(model, case.batches(37))
    problem.chunk_points()
    model.model.most = 0
    for method in ("cg", "lissa", "kfac", "datainf"):
        with pytest.raises(OutOfMemory, match="Not even one training point"):
            problem.solve(method, case.rhs(1), hessian_perturbation=1.0)
    for fails in (lambda: influence_scores(model, problem, case.rhs(1)), lambda: loss_gradients(model, problem)):
        with pytest.raises(OutOfMemory):
            fails()
    # Nothing half-made was kept: with memory it works again.
    model.model.most = 37
    assert problem.solve("cg", case.rhs(1), hessian_perturbation=case.damping).info["certificate"][0]["status"]


def test_another_fault_is_no_shortage_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


LIMITED = """
import resource
import torch
from torch import nn
from solvers import Problem, TorchTwiceDifferentiable

torch.set_num_threads(1)
torch.manual_seed(0)
module = nn.Sequential(nn.Linear(4, 1024), nn.Tanh(), nn.Linear(1024, 1))
data = [(torch.randn(8192, 4), torch.randn(8192, 1))]
model = TorchTwiceDifferentiable(module, nn.MSELoss())
free = Problem(model, data, curvature="ggn", strategy="graph")
b = torch.randn(1, free.num_params)
first = free.hessian(1, 1)(b)
free._planner.forget()
limited = Problem(model, data, curvature="ggn", strategy="graph")
limited.chunk_points()
size = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize"))) * 1024
room = size + 64 * 2**20  # a graph of all points keeps twice as much
resource.setrlimit(resource.RLIMIT_AS, (room, room))
found = limited.solve("cg", b, hessian_perturbation=10.0, rtol=1e-5, atol=0.0)
print(found.info["certificate"][0]["status"], found.info["strategy"]["chunk_points"])
print(found.info["strategy"]["why"])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits its address space as Linux does")
def test_a_process_that_really_has_too_little() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, why = done.stdout.splitlines()
    status, chunk = first.split()
    assert status == "converged"
    assert int(chunk) < 8192
    assert "out of memory with 8192 points at a time" in why
