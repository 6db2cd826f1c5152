"""Methods, options, λ and curvature against the model: what is taken, and each refusal with its advice."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from tests.app.conftest import MakeService
from tests.app.driver import Service, npy, problem, tensors

ABOVE_ZERO: list[tuple[str, dict[str, Any]]] = [
    ("nystrom", {}),
    ("arnoldi", {"woodbury": True, "rank_estimate": 2}),
    ("kfac", {}),
    ("ekfac", {}),
    ("datainf", {}),
    ("cg", {"preconditioner": "kfac"}),
    ("minres", {"preconditioner": "ekfac"}),
]


def submit(service: Service, *, dry_run: bool = False, **changes: Any) -> httpx.Response:
    return service.http.post("/v1/jobs", json=service.submission(**changes), params={"dry_run": dry_run})


# --- λ and curvature


@pytest.mark.parametrize("curvature", ["hessian", "ggn", "fisher", "mc_fisher", "empirical_fisher"])
@pytest.mark.parametrize("perturbation", [0.5, "auto", {"*": 0.01, "bias": 0.1}])
def test_every_curvature_and_form_of_lambda_is_kept_as_it_was_sent(
    service: Service, curvature: str, perturbation: Any
) -> None:
    job = service.submit(curvature=curvature, hessian_perturbation=perturbation)
    found = service.http.get(f"/v1/jobs/{job['id']}").json()
    assert (found["curvature"], found["hessian_perturbation"]) == (curvature, perturbation)
    claimed = service.claim(job["id"]).request
    assert (claimed.curvature.value, claimed.hessian_perturbation) == (curvature, perturbation)


@pytest.mark.parametrize(
    "perturbation", [-0.1, "automatic", "0.1", None, [], {}, {"*": -1}, {"*": "auto"}, {"*": None}, True]
)
def test_a_lambda_that_is_none_is_one_fault(service: Service, perturbation: Any) -> None:
    body = {**service.submission(), "hessian_perturbation": perturbation}
    found = problem(service.http.post("/v1/jobs", json=body), 422, "validation_error")
    (fault,) = found["errors"]
    assert fault["loc"][:2] == ["body", "hessian_perturbation"]


def test_an_unknown_curvature_names_the_known_ones(service: Service) -> None:
    found = problem(submit(service, curvature="laplace"), 422, "validation_error")
    assert "'empirical_fisher'" in found["detail"]


def test_a_pattern_that_matches_nothing_names_the_parameters(service: Service) -> None:
    found = problem(submit(service, hessian_perturbation={"*": 0.1, "2.*": 1.0}), 422, "unknown_parameters")
    assert (found["given"], found["allowed"]) == ("2.*", "weight, bias")


def test_a_parameter_without_a_lambda_is_named(service: Service) -> None:
    found = problem(submit(service, hessian_perturbation={"w*": 0.1}), 422, "invalid_option")
    assert found["given"] == "no pattern for bias"
    assert "'*' first" in found["hint"]
    # A frozen parameter needs none, and has none.
    frozen = service.register("frozen-bias", parameters={"include": ["weight"]})["reference"]
    rhs = {"inline": [1.0, 2.0]}
    assert submit(service, model=frozen, rhs=rhs, hessian_perturbation={"w*": 0.1}).status_code == 202
    problem(
        submit(service, model=frozen, rhs=rhs, hessian_perturbation={"*": 1, "bias": 1}), 422, "unknown_parameters"
    )


@pytest.mark.parametrize(("method", "options"), ABOVE_ZERO)
def test_what_is_singular_without_lambda_needs_one(service: Service, method: str, options: dict[str, Any]) -> None:
    changes = {"method": method, "options": options}
    found = problem(submit(service, **changes, hessian_perturbation=0.0), 422, "invalid_option")
    assert "needs λ > 0: " in found["message"]
    assert "hessian_perturbation > 0" in found["allowed"]
    assert '"auto"' in found["hint"]
    problem(submit(service, **changes, hessian_perturbation={"*": 0.1, "bias": 0.0}), 422, "invalid_option")
    for damping in (0.1, "auto"):
        assert submit(service, **changes, hessian_perturbation=damping).status_code == 202


@pytest.mark.parametrize("method", ["nystrom", "arnoldi"])
def test_what_adds_lambda_to_eigenvalues_needs_one_for_all(service: Service, method: str) -> None:
    found = problem(
        submit(service, method=method, hessian_perturbation={"*": 0.1, "bias": 0.2}), 422, "invalid_option"
    )
    assert found["given"] == "*=0.1, bias=0.2"
    assert "direct, cg and minres" in found["hint"]


@pytest.mark.parametrize("method", ["direct", "cg", "minres", "lissa", "kfac", "ekfac", "datainf", "auto"])
def test_the_other_methods_take_a_lambda_by_parameter(service: Service, method: str) -> None:
    assert submit(service, method=method, hessian_perturbation={"*": 0.1, "bias": 0.2}).status_code == 202


def test_a_pattern_that_another_overrides_decides_nothing(service: Service) -> None:
    overridden = {"*": 0.0, "weight": 0.1, "bias": 0.2}
    assert submit(service, method="kfac", hessian_perturbation=overridden).status_code == 202


@pytest.mark.parametrize(
    ("options", "perturbation", "option", "allowed"),
    [
        ({"scale": 0.05}, 0.1, "scale", "more than 0.05"),
        ({"scale": 0.09, "dampen": 1.0}, 0.1, "scale", "more than 0.1"),
        ({"scale": 10.0}, {"*": 0.1, "bias": 20.0}, "scale", "more than 10"),
        ({"dampen": 2.0}, 0.1, "dampen", "0 ≤ dampen < 2"),
    ],
)
def test_a_series_that_must_diverge_is_refused(
    service: Service, options: dict[str, Any], perturbation: Any, option: str, allowed: str
) -> None:
    changes = {"method": "lissa", "options": options, "hessian_perturbation": perturbation}
    found = problem(submit(service, **changes), 422, "invalid_option")
    assert f"{option!r} of method 'lissa'" in found["message"]
    assert found["allowed"].startswith(allowed)
    problem(submit(service, dry_run=True, **changes), 422, "invalid_option")
    assert submit(service, method="lissa", hessian_perturbation=100.0).status_code == 202  # a scale is found


# --- options


@pytest.mark.parametrize(
    "method", ["direct", "cg", "minres", "lissa", "arnoldi", "nystrom", "kfac", "ekfac", "datainf", "auto"]
)
def test_every_method_is_taken_with_its_defaults_on_a_model_of_three_parameters(service: Service, method: str) -> None:
    job = service.submit(method=method, hessian_perturbation=0.1)
    assert job["method"] == method
    assert job["options"].get("rtol", 1e-5) is not None


@pytest.mark.parametrize(
    ("method", "options", "allowed"),
    [
        ("nystrom", {"rank": 4}, "1 to 3"),
        ("arnoldi", {"rank_estimate": 4}, "1 to 3"),
        ("cg", {"preconditioner": "nystrom", "preconditioner_rank": 4}, "1 to 3"),
        ("arnoldi", {"rank_estimate": 2, "krylov_dimension": 2}, "3 or more"),
        ("minres", {"preconditioner_rank": 2}, "deflation or nystrom"),
        ("cg", {"preconditioner": "kfac", "preconditioner_rank": 2}, "deflation or nystrom"),
        ("cg", {"preconditioner": "ilu"}, "What is solved with first"),
        ("kfac", {"statistics": "type3"}, "Gradients behind"),
    ],
)
def test_options_that_do_not_fit(service: Service, method: str, options: dict[str, Any], allowed: str) -> None:
    response = submit(service, method=method, options=options, hessian_perturbation=0.1)
    assert allowed in problem(response, 422, "invalid_option")["allowed"]


# --- memory


def wide_model(service: Service, inputs: int) -> str:
    """A linear regression with so many inputs; returns its reference."""
    registered = service.register(
        f"wide-{inputs}",
        architecture={"type": "linear", "config": {"in_features": inputs, "out_features": 1, "bias": False}},
        weights=service.put(tensors(weight=np.zeros((1, inputs), np.float32))),
        data={
            "inputs": service.put(npy(np.zeros((1, inputs), np.float32))),
            "targets": service.put(npy(np.zeros((1, 1), np.float32))),
        },
    )
    return str(registered["reference"])


def test_what_cannot_fit_the_budget_is_refused_by_what_would_help(make_service: MakeService) -> None:
    service = make_service(memory_budget=1_000_000)
    model = wide_model(service, 1000)
    one, many = ({"blob": service.put(npy(np.ones((k, 1000), np.float32)))} for k in (1, 100))

    def refused(code: str, **changes: Any) -> dict[str, Any]:
        for dry_run in (False, True):
            found = problem(
                submit(service, model=model, hessian_perturbation=0.1, dry_run=dry_run, **changes), 422, code
            )
        assert found["allowed"] == "1000000 bytes"
        assert "IHVP_MEMORY_BUDGET" in found["hint"]
        return found

    assert "'cg'" in refused("hessian_too_large", rhs=one, method="direct")["hint"]
    assert "Split the right-hand sides" in refused("solve_too_large", rhs=many)["hint"]
    found = refused("solve_too_large", rhs=one, method="arnoldi", options={"krylov_dimension": 300})
    assert found["given"] == f"{(300 + 2) * 1000 * 4} bytes"
    assert "smaller Krylov space" in found["hint"]
    # A sketch is cut to the budget, so a large one is no reason to refuse.
    for method, options in (("cg", {}), ("nystrom", {"rank": 900}), ("kfac", {}), ("arnoldi", {}), ("auto", {})):
        response = submit(service, model=model, rhs=one, method=method, options=options, hessian_perturbation=0.1)
        assert response.status_code == 202, response.text
