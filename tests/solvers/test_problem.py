"""The problem object: reuse, product strategies, and independence from what happens to the module."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ihvp.errors import InvalidInput
from solvers import Problem, TorchTwiceDifferentiable, solve_hvp
from solvers.operators import CurvatureOperator, chunk_curvature
from tests.solvers.cases import dense_hessian, logistic, small_mlp

F64 = torch.float64


def test_float64_sums_of_float32_products() -> None:
    case = small_mlp(torch.float32)
    H = Problem(case.model, case.batches(5)).hessian(1, 1)
    assert H(case.rhs(2), accumulate=F64).dtype == F64


class TestReuse:
    def test_a_second_solve_reuses_the_graphs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        case = logistic(F64)
        problem = Problem(case.model, case.batches(9))
        for k in (1, 2):
            problem.solve("cg", case.rhs(k), hessian_perturbation=case.damping)
        monkeypatch.setitem(chunk_curvature.SECOND_DERIVATIVES, "graph", None)
        b = case.rhs(2, seed=9)
        x, _ = problem.solve("direct", b, hessian_perturbation=0.3)
        torch.testing.assert_close(x, case.exact(b, 0.3))

    def test_a_problem_is_training_data_of_its_own_model_only(self) -> None:
        case, other = logistic(F64), logistic(F64)
        problem = Problem(case.model, case.batches(9))
        assert Problem.of(case.model, problem) is problem
        assert Problem.of(other.model, problem) is not problem
        b = case.rhs(1)
        x, _ = solve_hvp("cg", case.model, problem, b, hessian_perturbation=case.damping, rtol=1e-9)
        torch.testing.assert_close(x, case.exact(b), rtol=1e-5, atol=1e-6)
        assert [len(y) for _, y in problem] == [9, 9, 9, 2]

    def test_solve_hvp_keeps_nothing_between_calls(self) -> None:
        case = logistic(F64)
        b, data = case.rhs(1), case.batches(9)
        before = solve_hvp("direct", case.model, data, b, hessian_perturbation=0.1).x
        with torch.no_grad():
            case.model.model.weight.mul_(3)
        after = solve_hvp("direct", case.model, data, b, hessian_perturbation=0.1).x
        assert float((before - after).norm() / before.norm()) > 0.01

    def test_a_problem_stays_where_it_was_made(self) -> None:
        case = small_mlp(F64)
        problem = Problem(case.model, case.batches(9), strategy="recomputed")
        with torch.no_grad():
            for parameter in case.model.model.parameters():
                parameter.mul_(0.5)
        V = case.rhs(2)
        torch.testing.assert_close(problem.hessian(1, 1)(V), V @ case.H, rtol=1e-9, atol=1e-11)

    def test_a_bare_module_is_refused_with_the_way_out(self) -> None:
        with pytest.raises(InvalidInput, match=r"Given: Linear.*TorchTwiceDifferentiable\(module, loss\)"):
            Problem(nn.Linear(1, 1), [])  # type: ignore[arg-type]

    def test_what_a_problem_knows(self) -> None:
        case = logistic(F64)
        problem = Problem(case.model, case.batches(9))
        assert (problem.num_params, problem.num_points, problem.dtype) == (6, 29, F64)
        with torch.no_grad():
            expected = case.model.mean_loss(case.x, case.y)
        assert problem.mean_loss == pytest.approx(float(expected))


class Attention(nn.Module):
    """Fused attention has no second derivative on its default kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.reshape(*part.shape[:2], 2, 2).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(x.shape)).mean(dim=1)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x).mean(dim=1))


@pytest.mark.parametrize("strategy", ["graph", "linearized", "recomputed", "forward"])
@pytest.mark.parametrize("module", [Attention, Encoder])
def test_attention_has_second_derivatives(module: type[nn.Module], strategy: Any) -> None:
    torch.manual_seed(0)
    model = TorchTwiceDifferentiable(module().double().eval(), nn.CrossEntropyLoss())
    x, y = torch.randn(6, 3, 4, dtype=F64), torch.randint(0, 2, (6,))
    data = [(x[:4], y[:4]), (x[4:], y[4:])]
    V = torch.randn(2, model.num_params, dtype=F64)
    H: CurvatureOperator = Problem(model, data, strategy=strategy).hessian(1, 1)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        dense = dense_hessian(model.model, lambda m: F.cross_entropy(m(x), y))
    torch.testing.assert_close(H(V), V @ dense, rtol=1e-8, atol=1e-10)
