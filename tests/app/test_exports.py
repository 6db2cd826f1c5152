"""Exported programs at the API: layout and shapes without torch, the switch, and what is refused at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.app.conftest import MakeService
from tests.app.driver import Service, npy
from tests.exports.programs import CASES, export, numbers

Archives = Callable[[str], Path]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("program") / "stack.pt2"
    case = CASES["stack"]
    return export(case.module(), case.inputs(), path).read_bytes()


@pytest.fixture
def service(make_service: MakeService) -> Service:
    return make_service(allow_exports=True)


def spec(service: Service, program: bytes, **changes: Any) -> dict[str, Any]:
    made = {
        "weights": f"export://{service.put(program)}",
        "loss": "cross_entropy",
        "data": {
            "inputs": service.put(npy(numbers(9, 16).numpy())),
            "targets": service.put(npy([0, 1, 2, 3, 0, 1, 2, 3, 0])),
        },
        "dtype": "float64",
    }
    return {**made, **changes}


def test_the_layout_is_that_of_the_module_and_a_job_is_accepted(service: Service, program: bytes) -> None:
    answer = service.http.post("/v1/models", json={"name": "exported", **spec(service, program)})
    assert answer.status_code == 201, answer.text
    model = answer.json()
    eager = [(name, list(p.shape)) for name, p in CASES["stack"].module().named_parameters()]
    assert [(entry["name"], entry["shape"]) for entry in model["layout"]] == eager
    assert model["num_points"] == 9
    assert model["spec"]["architecture"] is None
    part = spec(service, program, parameters={"include": ["head.*"]})
    answer = service.http.post("/v1/jobs?dry_run=true", json={"model": part, "rhs": {"inline": [0.0] * (48 * 4 + 4)}})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"]["num_params"] == 48 * 4 + 4


def problem(service: Service, status: int, code: str, **document: Any) -> dict[str, Any]:
    answer = service.http.post("/v1/models", json={"name": "refused", **document})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_it_is_off_unless_an_operator_turns_it_on(make_service: MakeService, program: bytes) -> None:
    service = make_service()
    told = problem(service, 422, "exports_not_allowed", **spec(service, program))
    assert "IHVP_ALLOW_EXPORTS" in told["hint"]


def test_what_is_no_program_is_refused_at_submit(service: Service, program: bytes) -> None:
    architecture = {"type": "linear", "config": {"in_features": 2, "out_features": 1}}
    problem(service, 422, "invalid_architecture", **spec(service, program, architecture=architecture))
    problem(service, 422, "invalid_export", **spec(service, b"not a zip"))
    problem(service, 422, "invalid_export", **spec(service, program[: len(program) // 2]))
    missing = "export://sha256:" + "0" * 64
    assert (
        "PUT /v1/blobs/sha256:0"
        in problem(service, 422, "unknown_blob", **spec(service, program, weights=missing))["hint"]
    )
    problem(service, 422, "invalid_reference", **spec(service, program, weights="export://model.pt2"))
    problem(service, 422, "invalid_architecture", **spec(service, program, weights=service.put(npy([1.0]))))
    problem(service, 422, "loss_mismatch", **{**spec(service, program), "loss": None})
