"""Memory: flat in n, within the budget, and what happens where a device has less of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ihvp.errors import OutOfMemory
from solvers import Problem, TorchTwiceDifferentiable, solve_hvp
from solvers.data import TrainingData
from solvers.kernels import twice_differentiable_kernels
from solvers.operators import chunk_curvature
from tests.solvers.cases import Batches, small_mlp

F64 = torch.float64
MIB = 2**20
BUDGET = 16 * MIB

SOLVE = """
import resource, sys
import torch
from torch import nn
from ihvp.errors import OutOfMemory
from solvers import Problem, TorchTwiceDifferentiable

torch.set_num_threads(1)
points, curvature, budget, method = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
method, maxiter = (method.split("-") + ["2"])[:2]
options = {"cg": {"rtol": 1e-6, "atol": 0.0, "maxiter": int(maxiter)}}.get(method, {})

class Stream:
    # Batches made as they are asked for, as mapped files give them: nothing is held between two.
    def __len__(self):
        return points // 512

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randn(512, 256, generator=generator), torch.randint(0, 10, (512,), generator=generator)

    def __iter__(self):
        return map(self.__getitem__, range(len(self)))

torch.manual_seed(0)
module = nn.Sequential(nn.Linear(256, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))
model = TorchTwiceDifferentiable(module, nn.CrossEntropyLoss())

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def solve(data):
    problem = Problem(model, data, curvature=curvature, memory_budget=budget)
    b = torch.randn(1, problem.num_params)
    info = problem.solve(method, b, hessian_perturbation=1.0, **options).info
    problem.minibatches().product(0, b)
    return info

solve([(torch.randn(512, 256), torch.randint(0, 10, (512,)))])  # loads what torch loads once
before = peak()
info = solve(Stream())
print(peak() - before, info["strategy"]["product"])
"""


def grown(points: int, curvature: str, method: str = "cg", budget: int = BUDGET) -> tuple[int, str]:
    """Bytes that a solve adds to the peak of a process of its own, and how products were computed."""
    command = [sys.executable, "-c", SOLVE, str(points), curvature, str(budget), method]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    nbytes, product = done.stdout.split()
    return int(nbytes), product


def test_eight_times_the_points_stay_within_the_budget() -> None:
    small, _ = grown(4 * 1024, "hessian")
    large, product = grown(32 * 1024, "hessian")  # 32 MiB of inputs, and more of graphs
    assert product == "recomputed"
    assert large < BUDGET
    assert large - small < BUDGET / 2


@pytest.mark.parametrize(("points", "expected"), [(8 * 1024, "linearized"), (24 * 1024, "recomputed")])
def test_long_solves_stay_within_the_budget_however_products_are_kept(points: int, expected: str) -> None:
    """To record a product, or to keep graphs, takes more for a moment than what stays of it."""
    large, product = grown(points, "hessian", "cg-40", 4 * BUDGET)
    assert product == expected
    assert large < 4 * BUDGET


@pytest.mark.parametrize("method", ["ekfac", "datainf"])
def test_gradients_of_single_points_stay_within_the_budget_too(method: str) -> None:
    small, _ = grown(4 * 1024, "hessian", method)
    large, _ = grown(32 * 1024, "hessian", method)  # 1.2 GiB of gradients
    assert large < BUDGET
    assert large - small < BUDGET / 2


class Sized:
    """A source of batches that can be asked for one of them."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.passes = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Indexed(Sized):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.batches[index]


@pytest.mark.parametrize("kind", [Sized, Indexed])
def test_minibatches_past_the_budget_are_read_when_they_are_drawn(kind: type[Sized]) -> None:
    case = small_mlp(F64, n=100)
    source = kind(case.batches(30))
    data = TrainingData(source, memory_budget=100)
    assert not data.in_memory
    passes = source.passes
    for index, (x, y) in enumerate(case.batches(30)):
        found = data.batch(index)
        assert torch.equal(found[0], x)
        assert torch.equal(found[1], y)
    assert (source.passes == passes) == (kind is Indexed)
    assert data.nbytes == 0


def test_a_minibatch_larger_than_a_chunk_is_cut() -> None:
    case = small_mlp(F64, n=200)
    whole = Problem(case.model, case.batches(200)).minibatches()
    cut = Problem(case.model, case.batches(200), memory_budget=20_000)
    assert cut.chunk_points() < 50
    V = case.rhs(2)
    torch.testing.assert_close(cut.minibatches().product(0, V), whole.product(0, V))


class OutOfMemoryAbove:
    """A product kind that has no memory for more points than it was given."""

    def __init__(self, most: int, inner: Any) -> None:
        self.most, self.inner = most, inner
        self.sizes: list[int] = []

    def __call__(self, objective: Any, at: Any) -> Any:
        points = next(c.cell_contents for c in objective.__closure__ if isinstance(c.cell_contents, Tensor)).shape[0]
        self.sizes.append(points)
        if points > self.most:
            raise torch.OutOfMemoryError("injected")
        return self.inner(objective, at)


@pytest.mark.parametrize("strategy", ["graph", "recomputed", "forward"])
def test_out_of_memory_halves_the_chunk_and_goes_on(strategy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = small_mlp(F64)
    problem = Problem(case.model, case.batches(37), strategy=strategy)
    problem.chunk_points()  # measured while there is room
    for kind in ("graph", "recomputed", "forward"):
        inner = chunk_curvature.SECOND_DERIVATIVES[kind]
        monkeypatch.setitem(chunk_curvature.SECOND_DERIVATIVES, kind, OutOfMemoryAbove(10, inner))
    b = case.rhs(2)
    x, info = problem.solve("cg", b, hessian_perturbation=case.damping, rtol=1e-9)
    assert max(case.residual(x, b)) < 1e-8
    assert info["strategy"]["chunk_points"] == 9  # of 37: 18, then 9
    assert "out of memory with 37 points" in info["strategy"]["why"]
    assert "out of memory with 18 points" in info["strategy"]["why"]
    assert info["strategy"]["product"] == ("recomputed" if strategy == "graph" else strategy)


def test_not_even_one_point_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    case = small_mlp(F64)
    problem = Problem(case.model, case.batches(9), strategy="recomputed")
    problem.chunk_points()
    inner = chunk_curvature.SECOND_DERIVATIVES["recomputed"]
    monkeypatch.setitem(chunk_curvature.SECOND_DERIVATIVES, "recomputed", OutOfMemoryAbove(0, inner))
    with pytest.raises(OutOfMemory, match="Not even one training point"):
        problem.hessian(1, 1)(case.rhs(1))


class TestWhatIsKept:
    def test_bytes_of_batches_graphs_and_factors(self) -> None:
        case = small_mlp(F64)
        held, made = Problem(case.model, case.batches(9)), Problem(case.model, iter(case.batches(9)))
        assert held.nbytes == 0  # a list is the caller's
        assert made.nbytes == case.x.nbytes + case.y.nbytes
        held.hessian(1, 1)(case.rhs(1))
        graphs = held.nbytes
        # At least the activations and their gradients: two layers of six, for each point, in float64.
        assert graphs > 37 * 2 * 6 * 8
        held.minibatches().product(0, case.rhs(1))
        assert held.nbytes > graphs

    def test_linearisations_count_too(self) -> None:
        case = small_mlp(F64)
        problem = Problem(case.model, case.batches(9), strategy="linearized")
        problem.hessian(1, 1)(case.rhs(1))
        assert problem.nbytes > 37 * 6 * 8

    def test_curvatures_share_one_budget(self) -> None:
        case = small_mlp(F64)
        alone = Problem(case.model, case.batches(9))
        b = case.rhs(1)
        alone.hessian(1, 1)(b)
        # Enough for the graphs of one curvature, and not for those of two: beside them products need room as well.
        problem = Problem(case.model, case.batches(9), memory_budget=4 * alone.nbytes)
        ggn = problem.with_curvature("ggn")
        assert problem.with_curvature("hessian") is problem
        assert problem.with_curvature("ggn") is ggn
        for _ in range(2):
            for one in (problem, ggn):
                one.hessian(1, 1)(b)
                assert 0 < one.nbytes <= problem.memory_budget
        assert ggn.nbytes == problem.nbytes  # one cache entry, whichever is asked

    def test_seconds_of_a_product_are_known_after_a_solve(self) -> None:
        case = small_mlp(F64)
        problem = Problem(case.model, case.batches(9))
        assert problem.seconds_per_product is None
        problem.solve("cg", case.rhs(2), hessian_perturbation=case.damping)
        found = problem.seconds_per_product
        assert found is not None
        assert 1e-6 < found < 1.0


def test_precision_of_cuda_kernels_is_set_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switches exist without a device, so that the order of setting and restoring can be seen here."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    try:
        matmul.fp32_precision = conv.fp32_precision = "tf32"
        with twice_differentiable_kernels():
            with twice_differentiable_kernels():
                assert (matmul.fp32_precision, conv.fp32_precision) == ("ieee", "ieee")
            assert (matmul.fp32_precision, conv.fp32_precision) == ("ieee", "ieee")
        assert (matmul.fp32_precision, conv.fp32_precision) == ("tf32", "tf32")
        seen: list[tuple[str, str]] = []
        case = small_mlp(torch.float32)
        # The algebra of a method is not done in fewer digits than its products.
        solve_hvp(
            "cg",
            case.model,
            case.batches(37),
            case.rhs(1),
            hessian_perturbation=case.damping,
            callback=lambda _: seen.append((matmul.fp32_precision, conv.fp32_precision)),
        )
        assert set(seen) == {("ieee", "ieee")}
        assert (matmul.fp32_precision, conv.fp32_precision) == ("tf32", "tf32")
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


def test_cuda_is_not_touched_by_a_solve_on_the_processor() -> None:
    model = TorchTwiceDifferentiable(nn.Linear(2, 1), nn.MSELoss())
    Problem(model, [(torch.ones(3, 2), torch.ones(3, 1))]).solve("cg", torch.ones(3), hessian_perturbation=1.0)
    assert not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
