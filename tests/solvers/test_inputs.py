"""Bad input, told before any work; and good input in all its forms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ihvp.errors import (
    DataMismatch,
    EmptyData,
    HessianTooLarge,
    InvalidInput,
    InvalidOption,
    ModelInTrainingMode,
    NonFiniteRhs,
    RhsShapeMismatch,
    RowsMismatch,
)
from solvers import Problem, TorchTwiceDifferentiable, solve_hvp
from tests.solvers.cases import batches_of, logistic, small_mlp

F64 = torch.float64


def solve(b: Any, method: str = "cg", damping: Any = 0.1, **options: Any) -> Any:
    case = logistic(F64)
    return solve_hvp(method, case.model, case.batches(9), b, hessian_perturbation=damping, **options)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (7,), (1, 1, 6), (), (0, 6)])
def test_wrong_length_names_p(shape: tuple[int, ...]) -> None:
    with pytest.raises(RhsShapeMismatch, match=r"trainable parameters, 6.*Given: \[.*Allowed: \[6\] or \[k, 6\]"):
        solve(torch.ones(shape, dtype=F64))


def test_non_finite_names_row_and_index() -> None:
    b = torch.ones(3, 6)
    b[1, 4] = torch.nan
    with pytest.raises(NonFiniteRhs, match=r"Right-hand side 1 is not finite at index 4. Given: nan"):
        solve(b)


@pytest.mark.parametrize("b", [torch.ones(6, dtype=torch.long), [1.0] * 6, None])
def test_b_must_be_a_floating_tensor(b: Any) -> None:
    with pytest.raises(InvalidInput, match="must be a floating-point tensor"):
        solve(b)


@pytest.mark.parametrize("damping", [-0.1, float("nan"), float("inf"), "0.1", None, True])
def test_damping_must_be_finite_and_not_negative(damping: Any) -> None:
    with pytest.raises(InvalidOption, match=r"hessian_perturbation \(λ\).*Allowed: λ ≥ 0"):
        solve(torch.ones(6), damping=damping)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("cg", {"rtol": "tiny"}, "'rtol' of method 'cg'"),
        ("cg", {"rtol": -1.0}, "'rtol' of method 'cg'"),
        ("cg", {"maxiter": 0}, "'maxiter' of method 'cg'"),
        ("cg", {"maxiter": 2.5}, "'maxiter' of method 'cg'"),
        ("cg", {"x0": torch.ones(5)}, r"x0 must be.*Given: \[5\].*Allowed: \[6\] or \[1, 6\]"),
        ("cg", {"x0": torch.full((6,), torch.inf)}, "x0 must be finite.*NaN or infinity"),
        ("lissa", {"scale": 0.0}, "'scale' of method 'lissa'"),
        ("lissa", {"h0": torch.ones(2, 6)}, "h0 must be"),
        ("arnoldi", {"rank_estimate": 7}, "exceeds the number of parameters.*Given: 7.*1 to 6"),
        ("arnoldi", {"rank_estimate": 4, "krylov_dimension": 3}, "krylov_dimension must exceed rank_estimate"),
        ("arnoldi", {"low_rank_representation": 3}, "must be a LowRankRepresentation"),
        ("direct", {"memory_budget": "1GB"}, "memory_budget is a number of bytes"),
        ("cg", {"callback": lambda report: "stop"}, "A callback returns why to stop.*'stop'"),
    ],
)
def test_options_are_checked(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        solve(torch.ones(6), method, **options)


def test_woodbury_needs_damping() -> None:
    with pytest.raises(InvalidOption, match="needs λ > 0"):
        solve(torch.ones(6), "arnoldi", damping=0.0, woodbury=True)


def test_a_dense_hessian_beyond_the_budget_says_the_bytes_and_names_cg() -> None:
    needed = 6 * 6 * (8 + 8 + 8)
    with pytest.raises(HessianTooLarge, match=f"need {needed} bytes.*Allowed: 100 bytes.*method 'cg'"):
        solve(torch.ones(6), "direct", memory_budget=100)
    assert solve(torch.ones(6), "direct", memory_budget=needed).x.shape == (6,)


class Untouched:
    """Data that must not be gone through."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the data were gone through before the fault was told")


METHODS = ["direct", "cg", "minres", "lissa", "arnoldi", "nystrom", "kfac", "ekfac", "datainf", "auto"]
FAULTS: list[tuple[str, dict[str, Any], Any, str]] = [
    *((method, {}, -0.1, "must be a finite number that is not negative") for method in METHODS),
    *((method, {}, {"*": 0.1, "weight": -1.0}, "for 'weight' must be a finite number") for method in METHODS),
    *(
        (method, {}, {"*": 0.1, "2.*": 1.0}, r"matches no parameter\. Given: 2\.\*\. Allowed: weight")
        for method in METHODS
    ),
    *((method, {}, {"weigh": 0.1}, "matches no parameter") for method in METHODS),
    *((method, {}, 0.0, "needs λ > 0") for method in ("nystrom", "kfac", "ekfac", "datainf")),
    ("arnoldi", {"woodbury": True}, 0.0, "needs λ > 0"),
    ("cg", {"preconditioner": "kfac"}, 0.0, "kfac needs λ > 0"),
    ("minres", {"preconditioner": "ekfac"}, {"*": 0.0}, "ekfac needs λ > 0"),
    ("nystrom", {"rank": 7}, 0.1, "rank exceeds the number of parameters.*Given: 7.*1 to 6"),
    ("arnoldi", {"rank_estimate": 7}, 0.1, "rank_estimate exceeds the number of parameters.*Given: 7.*1 to 6"),
    ("cg", {"preconditioner": "nystrom", "preconditioner_rank": 7}, 0.1, "preconditioner_rank exceeds.*1 to 6"),
    ("minres", {"preconditioner": "deflation", "preconditioner_rank": 7}, 0.1, "preconditioner_rank exceeds.*1 to 6"),
    ("cg", {"preconditioner_rank": 3}, 0.1, "acts on a low-rank preconditioner only"),
    ("minres", {"preconditioner": "kfac", "preconditioner_rank": 3}, 0.1, "acts on a low-rank preconditioner only"),
    ("lissa", {"scale": 0.05}, 0.1, r"'scale'.*diverge.*Given: scale=0\.05 with λ=0\.1.*more than 0\.05"),
    ("lissa", {"scale": 0.09, "dampen": 1.0}, 0.1, r"'scale'.*and dampen=1.*more than 0\.1"),
    ("lissa", {"scale": 10.0}, {"*": 0.1, "weight": 20.0}, r"with λ=20.*scale=None"),
    ("lissa", {"dampen": 2.0}, 0.1, "'dampen'.*diverge.*Given: 2"),
]


@pytest.mark.parametrize(("method", "options", "damping", "message"), FAULTS)
def test_faults_that_need_no_data_are_told_before_any_work(
    method: str, options: dict[str, Any], damping: Any, message: str
) -> None:
    case = logistic(F64)
    with pytest.raises(InvalidInput, match=message):
        solve_hvp(method, case.model, Untouched(), torch.ones(6), hessian_perturbation=damping, **options)


@pytest.mark.parametrize("method", METHODS)
def test_a_right_hand_side_that_does_not_fit_is_told_before_any_work(method: str) -> None:
    case = logistic(F64)
    with pytest.raises(RhsShapeMismatch):
        solve_hvp(method, case.model, Untouched(), torch.ones(5), hessian_perturbation=0.1)


@pytest.mark.parametrize("method", ["kfac", "ekfac", "datainf", "nystrom", "lissa", "minres"])
def test_a_lambda_that_is_to_be_chosen_is_taken(method: str) -> None:
    assert solve(torch.ones(6), method, damping="auto").info["hessian_perturbation"] > 0


class TestData:
    def model(self) -> TorchTwiceDifferentiable:
        return TorchTwiceDifferentiable(nn.Linear(2, 1, bias=False), nn.MSELoss())

    @pytest.mark.parametrize(
        ("data", "error", "message"),
        [
            ([], EmptyData, "no data points"),
            ([(torch.ones(0, 2), torch.ones(0, 1))], EmptyData, "no data points"),
            ([(torch.ones(3, 2), torch.ones(2, 1))], RowsMismatch, r"x \[3, 2\], y \[2, 1\]"),
            ([(torch.ones(3, 5), torch.ones(3, 1))], DataMismatch, r"inputs \[3, 5\] torch.float32"),
            ([(torch.ones(3, 2, dtype=F64), torch.ones(3, 1))], DataMismatch, "torch.float64"),
            ([torch.ones(3, 2)], DataMismatch, "must be a pair"),
            ([([1.0], [2.0])], DataMismatch, r"made of tensors.*x: list, y: list"),
            (7, DataMismatch, "must be an iterable"),
            (TensorDataset(torch.ones(3, 2), torch.ones(3)), DataMismatch, "Wrap the dataset in a DataLoader"),
        ],
    )
    def test_what_cannot_be_used(self, data: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            solve_hvp("cg", self.model(), data, torch.ones(2), hessian_perturbation=0.1)

    def test_an_iterator_is_read_once_and_kept(self) -> None:
        case = logistic(F64)
        b = case.rhs(1)
        x, _ = solve_hvp("cg", case.model, iter(case.batches(4)), b, hessian_perturbation=case.damping, atol=0.0)
        torch.testing.assert_close(x, case.exact(b), rtol=1e-5, atol=1e-6)

    def test_an_iterator_beyond_the_budget_is_refused(self) -> None:
        case = logistic(F64)
        with pytest.raises(DataMismatch, match=r"only once.*Pass a DataLoader"):
            Problem(case.model, iter(case.batches(4)), memory_budget=200)

    def test_a_source_beyond_the_budget_is_read_in_every_pass(self) -> None:
        case = logistic(F64)
        loader = DataLoader(TensorDataset(case.x, case.y), batch_size=4, shuffle=True)
        problem = Problem(case.model, loader, memory_budget=200)
        assert not problem.data.in_memory
        b = case.rhs(2)
        x, info = problem.solve("cg", b, hessian_perturbation=case.damping, atol=0.0)
        torch.testing.assert_close(x, case.exact(b), rtol=1e-5, atol=1e-6)
        assert info["strategy"]["product"] == "recomputed"

    def test_a_source_that_changes_is_noticed(self) -> None:
        case = logistic(F64)

        class Shrinking:
            passes = 0

            def __iter__(self) -> Iterator[Any]:
                self.passes += 1
                return iter(case.batches(4)[: 8 - self.passes])

        problem_of = lambda: Problem(case.model, Shrinking(), memory_budget=200)  # noqa: E731
        with pytest.raises(DataMismatch, match="changed between two passes"):
            problem_of().solve("cg", case.rhs(1), hessian_perturbation=0.1)

    def test_sequences_of_different_lengths_are_not_joined(self) -> None:
        model = TorchTwiceDifferentiable(nn.Conv1d(2, 1, 1, bias=False), nn.MSELoss())
        data = [(torch.randn(2, 2, t), torch.randn(2, 1, t)) for t in (3, 5, 5)]
        H = Problem(model, data).hessian(1, 2)(torch.eye(2))
        # A point's loss is the mean over its own elements; all points weigh the same.
        expected = (
            sum(2 / t * torch.einsum("nit,njt->ij", x, x) for (x, _), t in zip(data, (3, 5, 5), strict=True)) / 6
        )
        torch.testing.assert_close(H, expected)


class TestTrainingMode:
    @pytest.mark.parametrize(
        ("layer", "name"),
        [(nn.Dropout(0.5), "Dropout"), (nn.BatchNorm1d(3), "BatchNorm1d"), (nn.RReLU(), "RReLU")],
    )
    def test_what_changes_from_call_to_call_is_refused(self, layer: nn.Module, name: str) -> None:
        module = nn.Sequential(nn.Linear(3, 3), layer, nn.Linear(3, 1))
        model = TorchTwiceDifferentiable(module.train(), nn.MSELoss())
        data = [(torch.randn(4, 3), torch.randn(4, 1))]
        b = torch.ones(model.num_params)
        with pytest.raises(ModelInTrainingMode, match=rf"1 \({name}\).*model.eval\(\)"):
            solve_hvp("cg", model, data, b, hessian_perturbation=1.0)
        with pytest.raises(ModelInTrainingMode):
            model.grad(*data[0])
        module.eval()
        solve_hvp("direct", model, data, b, hessian_perturbation=1.0)

    def test_a_module_that_does_not_care_may_be_in_training_mode(self) -> None:
        case = small_mlp(F64)
        case.model.model.train()
        solve_hvp("cg", case.model, case.batches(9), case.rhs(1), hessian_perturbation=case.damping)

    def test_batch_norm_without_statistics_looks_at_its_batch(self) -> None:
        module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
        with pytest.raises(ModelInTrainingMode, match="track_running_stats=True"):
            Problem(TorchTwiceDifferentiable(module, nn.MSELoss()), [(torch.ones(4, 3), torch.ones(4, 3))])


class TestParameters:
    def test_frozen_parameters_are_constants(self) -> None:
        case = small_mlp(F64)
        module = case.model.model
        module[0].weight.requires_grad_(False)
        frozen = module[0].weight.numel()
        assert case.model.num_params == case.p - frozen
        # named_parameters() order: 0.weight comes first, so the rest is the trailing block.
        block = case.H[frozen:, frozen:]
        torch.testing.assert_close(case.model.hessian(case.x, case.y), block, rtol=1e-9, atol=1e-12)
        b = case.rhs(1)[:, frozen:]
        x, _ = solve_hvp("direct", case.model, case.batches(9), b, hessian_perturbation=case.damping)
        A = block + case.damping * torch.eye(case.p - frozen, dtype=F64)
        torch.testing.assert_close(x @ A, b)

    def test_nothing_to_differentiate(self) -> None:
        module = nn.Linear(2, 1).requires_grad_(False)
        with pytest.raises(InvalidInput, match="no parameter requires gradients"):
            Problem(TorchTwiceDifferentiable(module, nn.MSELoss()), [(torch.ones(2, 2), torch.ones(2, 1))])

    def test_tied_parameters_count_once(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a = nn.Linear(2, 2, bias=False)
                self.b = nn.Linear(2, 2, bias=False)
                self.b.weight = self.a.weight

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.b(torch.tanh(self.a(x)))

        model = TorchTwiceDifferentiable(Tied().double(), nn.MSELoss())
        x, y = torch.randn(5, 2, dtype=F64), torch.randn(5, 2, dtype=F64)
        assert model.num_params == 4
        H = Problem(model, batches_of(x, y, 2)).hessian(1, 4)(torch.eye(4, dtype=F64))
        torch.testing.assert_close(H, model.hessian(x, y))

    def test_an_unused_parameter_has_no_curvature(self) -> None:
        class Unused(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.w = nn.Parameter(torch.ones(1, 2))
                self.idle = nn.Parameter(torch.ones(()))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x @ self.w.T

        model = TorchTwiceDifferentiable(Unused(), nn.MSELoss())
        b = torch.tensor([1.0, 2.0, 3.0])
        for method in ("cg", "direct"):
            x, _ = solve_hvp(method, model, [(torch.eye(2), torch.ones(2, 1))], b, hessian_perturbation=0.5)
            torch.testing.assert_close(x, torch.tensor([1 / 1.5, 2 / 1.5, 3 / 0.5]))


class TestDtypes:
    def test_float64_b_with_a_float32_model(self) -> None:
        case = small_mlp(torch.float32)
        b = case.rhs(2).double()
        x, info = solve_hvp(
            "cg", case.model, case.batches(9), b, hessian_perturbation=case.damping, rtol=1e-5, atol=0.0
        )
        assert x.dtype == F64
        assert {c["status"] for c in info["certificate"]} == {"converged"}
        assert max(case.residual(x, b)) < 1.1e-5

    def test_the_certificate_describes_x_after_casting(self) -> None:
        case = small_mlp(F64)
        b = case.rhs(2).float()
        x, info = solve_hvp(
            "cg", case.model, case.batches(9), b, hessian_perturbation=case.damping, rtol=1e-10, atol=0.0
        )
        assert x.dtype == torch.float32
        for entry, true in zip(info["certificate"], case.residual(x, b), strict=True):
            assert true > 1e-9
            assert entry["relative_residual"] == pytest.approx(true, rel=1e-6)
            assert entry["status"] == "stagnated"
            assert "float64" in entry["advice"]

    def test_half_precision_b_comes_back_as_it_came(self) -> None:
        case = small_mlp(torch.float32)
        b = case.rhs(1)[0].half()
        x, info = solve_hvp("direct", case.model, case.batches(9), b, hessian_perturbation=case.damping)
        assert x.dtype == torch.float16
        assert info["certificate"][0]["relative_residual"] > 1e-5

    def test_x_needs_no_gradient(self) -> None:
        b = torch.ones(6, dtype=F64, requires_grad=True)
        assert not solve(b).x.requires_grad
