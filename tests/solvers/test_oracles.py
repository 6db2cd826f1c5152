"""Every method against closed forms and a dense float64 Hessian, in both dtypes and for one and many vectors."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from solvers import solve_hvp
from tests.solvers.cases import CASES, METHODS, Method, options_for

DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
class TestEveryMethod:
    def test_agrees_with_the_oracle(self, method: Method, name: str, dtype: torch.dtype) -> None:
        case = CASES[name](dtype)
        b = case.rhs(3)
        x, info = solve_hvp(
            method.name,
            case.model,
            case.batches(len(case.x)),
            b,
            hessian_perturbation=case.damping,
            **options_for(method, case),
        )
        assert x.dtype == dtype
        assert x.shape == b.shape
        exact = case.exact(b)
        assert float((x.double() - exact).norm() / exact.norm()) < method.error(dtype)
        for entry, true in zip(info["certificate"], case.residual(x, b), strict=True):
            noise = 1e-5 if dtype == torch.float32 else 1e-12
            assert entry["relative_residual"] == pytest.approx(true, rel=0.1, abs=noise)

    def test_one_vector_is_a_block_of_one(self, method: Method, name: str, dtype: torch.dtype) -> None:
        case = CASES[name](dtype)
        b = case.rhs(1)[0]
        options = options_for(method, case)
        x, info = solve_hvp(
            method.name,
            case.model,
            case.batches(len(case.x)),
            b,
            hessian_perturbation=case.damping,
            **options,
        )
        assert x.shape == b.shape
        assert len(info["certificate"]) == 1
        exact = case.exact(b)
        assert float((x.double() - exact).norm() / exact.norm()) < method.error(dtype)


@pytest.mark.parametrize("name", CASES)
def test_direct_reaches_1e_10_in_float64(name: str) -> None:
    case = CASES[name](torch.float64)
    b = case.rhs(2)
    x, info = solve_hvp("direct", case.model, case.batches(10), b, hessian_perturbation=case.damping)
    assert max(case.residual(x, b)) < 1e-10
    assert [c["status"] for c in info["certificate"]] == ["converged", "converged"]
    torch.testing.assert_close(info["hessian"], case.H, rtol=1e-10, atol=1e-12)
    assert info["inertia"] == {"positive": case.p, "negative": 0, "zero": 0}


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_data_loader_is_training_data(method: Method) -> None:
    case = CASES["logistic"](torch.float64)
    loader = DataLoader(TensorDataset(case.x, case.y), batch_size=len(case.x), shuffle=True)
    b = case.rhs(2)
    options = options_for(method, case)
    x, _ = solve_hvp(method.name, case.model, loader, b, hessian_perturbation=case.damping, **options)
    exact = case.exact(b)
    assert float((x - exact).norm() / exact.norm()) < method.error64


def test_hessian_and_products_of_the_model_agree_with_the_oracle() -> None:
    case = CASES["mlp"](torch.float64)
    torch.testing.assert_close(case.model.hessian(case.x, case.y), case.H, rtol=1e-10, atol=1e-12)
    gradient = case.model.grad(case.x, case.y, create_graph=True)
    V = case.rhs(4)
    products = case.model.mvp(gradient, V, case.model.parameters)
    torch.testing.assert_close(products, V @ case.H, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(case.model.mvp(gradient, V[0], case.model.parameters), products[0])


def test_the_gradient_of_a_linear_loss_has_no_jacobian() -> None:
    from torch import nn

    from solvers import TorchTwiceDifferentiable

    model = TorchTwiceDifferentiable(nn.Linear(2, 1, bias=False), lambda o, t: (o - t).mean())
    x, y = torch.randn(3, 2), torch.randn(3, 1)
    assert torch.equal(model.hessian(x, y), torch.zeros(2, 2))
    b = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(solve_hvp("cg", model, [(x, y)], b, hessian_perturbation=0.5).x, 2 * b)
