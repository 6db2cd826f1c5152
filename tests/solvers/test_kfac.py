"""K-FAC against closed forms, what it is where it is exact, and all that it says of itself."""

from __future__ import annotations

import copy
import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ihvp.errors import InvalidOption, LossMismatch, UnknownOption
from solvers import IterationReport, Problem, TerminationStatus, TorchTwiceDifferentiable, solve_hvp
from tests.solvers.cases import batches_of, dense_hessian, least_squares
from tests.solvers.fisher import dense_block, dense_factor, dense_fisher, places
from tests.solvers.kronecker_cases import F64, factor_of, layered

BOTH = ["kfac", "ekfac"]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class TestWhereItIsExact:
    @pytest.mark.parametrize("method", BOTH)
    @pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
    def test_least_squares(self, method: str, dtype: torch.dtype) -> None:
        case = least_squares(dtype)
        b = case.rhs(3)
        x, info = solve_hvp(method, case.model, case.batches(10), b, hessian_perturbation=case.damping)
        assert x.dtype == dtype
        exact = case.exact(b)
        assert float((x.double() - exact).norm() / exact.norm()) < (1e-5 if dtype == torch.float32 else 1e-12)
        assert {c["status"] for c in info["certificate"]} == {"converged"}

    def test_every_block_of_a_deep_linear_network(self) -> None:
        # Inputs and derivatives are independent: the derivatives are the same for all points.
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(3, 2)).double()
        x, y = numbers(11, 4), numbers(11, 2, seed=1)
        # J of the parameters is all of the Gauss-Newton matrix: the loss's own second derivative is 2/c.
        H = dense_fisher(module, nn.MSELoss(), x, y)
        problem = Problem(TorchTwiceDifferentiable(module, nn.MSELoss()), batches_of(x, y, 4))
        parameters = list(problem.snapshot.parameters)
        for block in factor_of(problem, "kfac").blocks:
            at = places(block, parameters)
            torch.testing.assert_close(dense_block(block), H[at][:, at], rtol=1e-10, atol=1e-12)

    def test_one_layer_is_the_closed_form_of_its_factors(self) -> None:
        torch.manual_seed(0)
        module = nn.Linear(4, 3).double()
        x, y = numbers(9, 4), torch.tensor([0, 1, 2] * 3)
        p = module(x).softmax(1).detach()
        a = torch.cat([x, torch.ones(9, 1, dtype=F64)], dim=1)
        G = torch.diag(p.mean(0)) - p.T @ p / 9
        problem = Problem(TorchTwiceDifferentiable(module, F.cross_entropy), batches_of(x, y, 4))
        (block,) = factor_of(problem, "kfac").blocks
        torch.testing.assert_close(dense_block(block), torch.kron(G, a.T @ a / 9), rtol=1e-10, atol=1e-12)


class TestPositions:
    @pytest.mark.parametrize(
        ("kernel", "settings", "before", "after"),
        [
            ((3, 2), {"stride": (2, 1), "padding": (1, 0)}, (1, 0), (1, 0)),
            ((2, 3), {"dilation": (2, 1)}, (0, 0), (0, 0)),
            ((2, 3), {"padding": "same", "dilation": 2}, (1, 2), (1, 2)),
            pytest.param(
                (4, 2),
                {"padding": "same"},
                (1, 0),
                (2, 1),
                marks=pytest.mark.filterwarnings("ignore:.*padding='same' with even kernel.*"),
            ),
        ],
    )
    def test_inputs_of_a_convolution_are_the_patches_under_its_kernel(
        self, kernel: tuple[int, int], settings: dict[str, object], before: tuple[int, int], after: tuple[int, int]
    ) -> None:
        torch.manual_seed(0)
        convolution = nn.Conv2d(2, 3, kernel, **settings)  # type: ignore[arg-type]
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        x, y = numbers(5, 2, 6, 7), numbers(5, 3, seed=1)
        module = nn.Sequential(convolution, head).double()
        places_of_kernel = convolution(torch.zeros(1, 2, 6, 7, dtype=F64)).shape[2:]
        padded = F.pad(x, (before[1], after[1], before[0], after[0]))
        rows = []
        for image, top, left in itertools.product(padded, *map(range, places_of_kernel)):
            (dy, dx), (sy, sx) = convolution.dilation, convolution.stride
            patch = image[:, top * sy :, left * sx :][:, ::dy, ::dx][:, : kernel[0], : kernel[1]]
            rows.append(torch.cat([patch.reshape(-1), torch.ones(1, dtype=F64)]))
        a = torch.stack(rows)
        # The mean over positions is linear: each has the derivative 1/R of every output, whose curvature is 2/c.
        positions = len(rows) // 5
        G = 2 / 3 * torch.eye(3, dtype=F64) / positions
        problem = Problem(TorchTwiceDifferentiable(module, nn.MSELoss()), batches_of(x, y, 2))
        (block,) = factor_of(problem, "kfac").blocks
        torch.testing.assert_close(dense_block(block), torch.kron(G, a.T @ a / len(rows)), rtol=1e-10, atol=1e-12)

    def test_a_linear_map_of_tokens_takes_them_as_independent(self) -> None:
        torch.manual_seed(0)
        linear = nn.Linear(3, 2, bias=False)
        module = nn.Sequential(linear, nn.Flatten(), nn.Linear(8, 2, bias=False)).double()
        frozen = module.get_parameter("2.weight").requires_grad_(False)
        mixing = frozen.detach().reshape(2, 4, 2)
        x, y = numbers(5, 4, 3), numbers(5, 2, seed=1)
        A = torch.einsum("nti,ntj->ij", x, x) / 20
        G = torch.einsum("cto,ctq->oq", mixing, mixing)
        problem = Problem(TorchTwiceDifferentiable(module, nn.MSELoss()), batches_of(x, y, 2))
        (block,) = factor_of(problem, "kfac").blocks
        torch.testing.assert_close(dense_block(block), torch.kron(G, A), rtol=1e-10, atol=1e-12)


class TestDamping:
    @pytest.mark.parametrize("method", BOTH)
    @pytest.mark.parametrize(
        "damping", [0.3, {"*": 0.1, "*.bias": 0.7, "2.*": 0.2}, {"*": 0.5, "0.bias": 0.01}, {"*": 0.1, "0.*": 2.0}]
    )
    def test_the_factors_are_inverted_exactly(self, method: str, damping: float | dict[str, float]) -> None:
        case = layered("mlp")
        problem = case.problem()
        parameters = list(problem.snapshot.parameters)
        b = numbers(3, problem.num_params)
        x, info = problem.solve(method, b, hessian_perturbation=damping)
        per_parameter = _by_name(problem, damping)
        A = dense_factor(factor_of(problem, method), parameters) + torch.diag(per_parameter)
        torch.testing.assert_close(x, torch.linalg.solve(A, b.T).T, rtol=1e-9, atol=1e-11)
        assert info["hessian_perturbation"] == damping

    @pytest.mark.parametrize("method", BOTH)
    def test_it_must_be_positive(self, method: str) -> None:
        case = layered("mlp")
        b = torch.ones(43, dtype=F64)
        with pytest.raises(InvalidOption, match=rf"{method} needs λ > 0.*Given: hessian_perturbation=0\."):
            case.problem().solve(method, b)
        with pytest.raises(InvalidOption, match="for every parameter"):
            case.problem().solve(method, b, hessian_perturbation={"*": 1.0, "0.*": 0.0})
        with pytest.raises(InvalidOption, match="needs λ > 0"):
            case.problem().solve("cg", b, preconditioner=method)


def _by_name(problem: Problem, damping: float | dict[str, float]) -> Tensor:
    from fnmatch import fnmatchcase

    patterns = damping if isinstance(damping, dict) else {"*": damping}
    parts = []
    for name, p in zip(problem.snapshot.names, problem.snapshot.parameters, strict=True):
        value = [v for pattern, v in patterns.items() if fnmatchcase(name, pattern)][-1]
        parts.append(torch.full((p.numel(),), value, dtype=F64))
    return torch.cat(parts)


class TestStatistics:
    def test_drawn_targets_have_the_exact_expectation(self) -> None:
        case = layered("mlp")
        problem = case.problem(13)
        parameters = list(problem.snapshot.parameters)
        exact = dense_factor(factor_of(problem, "kfac"), parameters)
        draws = [dense_factor(factor_of(problem, "kfac", statistics="mc", seed=s), parameters) for s in range(150)]
        assert not torch.equal(draws[0], draws[1])
        assert float((torch.stack(draws).mean(0) - exact).norm() / exact.norm()) < 0.05
        assert float((draws[0] - exact).norm() / exact.norm()) > 0.1

    def test_given_targets_make_the_gradients_of_points(self) -> None:
        case = layered("mlp")
        problem = case.problem()
        H, parameters = torch.zeros(43, 43, dtype=F64), list(problem.snapshot.parameters)
        for x, y in zip(case.x, case.y, strict=True):
            g = problem.model.grad(x[None], y[None])
            H += torch.outer(g, g) / len(case.x)
        whole = dense_factor(factor_of(problem, "ekfac", statistics="empirical"), parameters)
        torch.testing.assert_close(whole.trace(), H.trace(), rtol=1e-10, atol=0.0)

    def test_many_outputs_are_drawn_from_and_the_reason_is_told(self) -> None:
        module = nn.Linear(3, 65)
        data = [(torch.randn(4, 3), torch.randint(0, 65, (4,)))]
        b = torch.ones(260)
        info = solve_hvp(
            "kfac", TorchTwiceDifferentiable(module, F.cross_entropy), data, b, hessian_perturbation=1.0
        ).info
        assert info["statistics"]["asked"] == "type2"
        assert info["statistics"]["used"] == "mc"
        assert "65 outputs" in info["statistics"]["why"]
        assert info["factors"] == {"kfac statistics=mc seed=0": "made"}

    def test_what_the_loss_cannot_give_is_refused(self) -> None:
        huber = layered("robust")
        b = torch.ones(43, dtype=F64)
        with pytest.raises(InvalidOption, match=r"no known likelihood.*huber_loss.*empirical"):
            huber.problem().solve("kfac", b, hessian_perturbation=1.0, statistics="mc")
        wide = TorchTwiceDifferentiable(nn.Linear(1, 65), nn.HuberLoss())
        with pytest.raises(InvalidOption, match=r"65 outputs.*statistics='empirical'"):
            solve_hvp("kfac", wide, [(torch.ones(2, 1), torch.ones(2, 65))], torch.ones(130), hessian_perturbation=1.0)

        def hill(output: Tensor, target: Tensor) -> Tensor:
            return (-(output - target).square() + 4.0).sum(dim=1).mean()

        model = TorchTwiceDifferentiable(nn.Linear(1, 2), hill)
        with pytest.raises(LossMismatch, match=r"not convex in the model's outputs.*statistics='empirical'"):
            solve_hvp("kfac", model, [(torch.ones(2, 1), torch.ones(2, 2))], torch.ones(4), hessian_perturbation=9.0)
        with pytest.raises(UnknownOption, match="statistics"):
            huber.problem().solve("kfac", b, hessian_perturbation=1.0, statistic="mc")


class TestTheModel:
    def test_is_not_touched_and_stands_as_it_was_when_the_problem_was_made(self) -> None:
        case = layered("convolutions")
        problem = case.problem()
        untouched = copy.deepcopy(case.module)
        b = numbers(2, problem.num_params)
        expected = solve_hvp("ekfac", problem.model, case.batches(4), b, hessian_perturbation=0.1).x
        for mine, theirs in zip(case.module.parameters(), untouched.parameters(), strict=True):
            assert torch.equal(mine, theirs)
            assert mine.grad is None
        assert not any(m._forward_hooks or m._backward_hooks for m in case.module.modules())
        with torch.no_grad():
            for p in case.module.parameters():
                p.mul_(3.0)
        assert torch.equal(problem.solve("ekfac", b, hessian_perturbation=0.1).x, expected)

    def test_a_layer_whose_factors_would_not_fit_has_its_diagonal(self) -> None:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 60), nn.Linear(60, 2)).double()
        x, y = numbers(6, 4), numbers(6, 2)
        problem = Problem(TorchTwiceDifferentiable(module, nn.MSELoss()), [(x, y)], memory_budget=100_000)
        info = problem.solve("kfac", torch.ones(problem.num_params, dtype=F64), hessian_perturbation=1.0).info
        assert info["layers"] == {
            "0.weight": "kronecker",
            "0.bias": "kronecker",
            "2.weight": "diagonal",
            "2.bias": "diagonal",
            "3.weight": "diagonal",
            "3.bias": "diagonal",
        }
        H = dense_fisher(module, nn.MSELoss(), x, y).diagonal()
        diagonal = dense_factor(factor_of(problem, "kfac"), list(problem.snapshot.parameters)).diagonal()
        torch.testing.assert_close(diagonal[25:], H[25:], rtol=1e-10, atol=1e-14)


class TestEndings:
    @pytest.mark.parametrize("method", BOTH)
    @pytest.mark.parametrize("status", [TerminationStatus.Cancelled, TerminationStatus.Deadline])
    def test_a_stop_between_chunks_leaves_nothing_kept(self, method: str, status: TerminationStatus) -> None:
        case = layered("mlp")
        problem = case.problem()
        b = torch.ones(43, dtype=F64)
        x, info = problem.solve(method, b, hessian_perturbation=0.1, callback=lambda _: status)
        assert torch.equal(x, torch.zeros_like(b))
        assert info["certificate"][0]["status"] == status.value
        assert info["certificate"][0]["relative_residual"] == 1.0
        assert info["layers"] is None
        assert problem.factors.nbytes == 0
        assert (
            problem.solve(method, b, hessian_perturbation=0.1).info["factors"][f"{method} statistics=type2"] == "made"
        )

    def test_a_stop_in_the_second_pass_keeps_the_first(self) -> None:
        problem = layered("mlp").problem()
        b = torch.ones(43, dtype=F64)

        def stop(report: IterationReport) -> TerminationStatus | None:
            return TerminationStatus.Cancelled if report.iteration > 13 else None

        assert problem.solve("ekfac", b, hessian_perturbation=0.1, callback=stop).info["layers"] is None
        again = problem.solve("ekfac", b, hessian_perturbation=0.1).info["factors"]
        assert again == {"kfac statistics=type2": "kept", "ekfac statistics=type2": "made"}

    @pytest.mark.parametrize("method", BOTH)
    def test_info_is_json_ready_and_a_zero_vector_is_solved_by_zero(self, method: str) -> None:
        problem = layered("attention").problem()
        b = torch.zeros(2, problem.num_params, dtype=F64)
        b[0] = 1.0
        x, info = problem.solve(method, b, hessian_perturbation=0.1, rtol=1e-3)
        assert json.loads(json.dumps(info, allow_nan=False))["layers"]["out.weight"] == "kronecker"
        assert info["options"] == {"statistics": "type2", "rtol": 1e-3, "seed": 0}
        assert not x[1].any()
        assert info["certificate"][1]["status"] == "converged"
        assert x[0].any()


class TestAsPreconditioner:
    @pytest.mark.parametrize("method", BOTH)
    def test_ill_conditioned_inputs_take_a_step_or_two(self, method: str) -> None:
        scales = torch.logspace(0, 3, 12, dtype=F64)
        x, y = numbers(60, 12) * scales, numbers(60, 2, seed=1)
        model = TorchTwiceDifferentiable(nn.Linear(12, 2, dtype=F64), nn.MSELoss())
        b = numbers(1, 26)
        problem = Problem(model, [(x, y)])
        plain = problem.solve("cg", b, hessian_perturbation=0.01, rtol=1e-8, atol=0.0).info
        quick = problem.solve("cg", b, hessian_perturbation=0.01, rtol=1e-8, atol=0.0, preconditioner=method).info
        assert quick["certificate"][0]["status"] == "converged"
        assert quick["niter"][0] <= 3 < plain["niter"][0]
        assert quick["preconditioner"] == {
            "kind": method,
            "layers": 1,
            "diagonal_parameters": 0,
            "statistics": "type2",
        }

    @pytest.mark.parametrize("method", BOTH)
    def test_an_mlp_is_solved_to_the_tolerance(self, method: str) -> None:
        # Not in fewer iterations: the curvature between layers, which is left out, is what slows cg down.
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
        x, y = numbers(300, 6) * torch.logspace(-1, 1, 6, dtype=F64), numbers(300, 3, seed=1)
        problem = Problem(TorchTwiceDifferentiable(module, nn.MSELoss()), [(x, y)], curvature="ggn")
        b = numbers(1, problem.num_params)
        x, info = problem.solve("cg", b, hessian_perturbation=1e-4, rtol=1e-8, atol=0.0, preconditioner=method)
        assert info["certificate"][0]["status"] == "converged"
        plain = problem.solve("cg", b, hessian_perturbation=1e-4, rtol=1e-8, atol=0.0).x
        assert float((x - plain).norm()) < 1e-5 * float(plain.norm())

    @pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
    def test_it_is_symmetric_positive_definite(self, dtype: torch.dtype) -> None:
        case = layered("convolutions")
        model = TorchTwiceDifferentiable(case.module.to(dtype), case.loss)
        problem = Problem(model, [(case.x.to(dtype), case.y.to(dtype))])
        P = problem.solve("ekfac", torch.eye(problem.num_params, dtype=dtype), hessian_perturbation=0.05).x.double()
        assert float((P - P.T).norm() / P.norm()) < (1e-5 if dtype == torch.float32 else 1e-13)
        values = torch.linalg.eigvalsh((P + P.T) / 2)
        assert float(values[0]) > 0
        assert float(values[-1]) <= 1 / 0.05 * (1 + 1e-5)


def test_the_hessian_of_a_linear_model_is_what_the_certificate_sees() -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 2).double()
    x, y = numbers(8, 3), torch.tensor([0, 1] * 4)
    H = dense_hessian(module, lambda m: F.cross_entropy(m(x), y))
    b = numbers(2, 8)
    found, info = solve_hvp(
        "kfac", TorchTwiceDifferentiable(module, F.cross_entropy), [(x, y)], b, hessian_perturbation=0.1
    )
    residual = (found @ (H + 0.1 * torch.eye(8, dtype=F64)) - b).norm(dim=1) / b.norm(dim=1)
    assert [c["relative_residual"] for c in info["certificate"]] == pytest.approx(residual.tolist(), rel=1e-9)
