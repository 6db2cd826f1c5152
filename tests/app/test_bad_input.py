"""Every way in which input can be wrong: its code, and what the message gives, allows and advises."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from tests.app.conftest import MakeService
from tests.app.driver import Service, digest_of, npy, problem, tensors


def submit(service: Service, **changes: Any) -> httpx.Response:
    return service.http.post("/v1/jobs", json=service.submission(**changes))


def register(service: Service, **changes: Any) -> httpx.Response:
    return service.http.post("/v1/models", json={"name": "refused", **service.spec(**changes)})


# --- the right-hand side


def test_wrong_rhs_length_says_p_expected_and_given_and_links_the_layout(service: Service) -> None:
    found = problem(submit(service, rhs={"inline": [1.0, 2.0]}), 422, "rhs_shape_mismatch")
    assert "p = 3" in found["message"]
    assert found["given"].startswith("2 numbers")
    assert "p = 3" in found["allowed"]
    link = next(word.rstrip(".") for word in found["hint"].split() if word.startswith("/v1/models/"))
    layout = service.http.get(link).json()["layout"]
    assert sum(int(np.prod(entry["shape"])) for entry in layout) == 3


@pytest.mark.parametrize(
    ("inline", "given"),
    [
        ([], "0 numbers"),
        ([[]], "0 numbers"),
        ([[1.0, 2.0, 3.0], [1.0, 2.0]], "row 1 has 2"),
        ([[1.0] * 3] * 1025, "1025 right-hand sides"),
    ],
)
def test_rows_that_do_not_fit(service: Service, inline: Any, given: str) -> None:
    assert given in problem(submit(service, rhs={"inline": inline}), 422, "rhs_shape_mismatch")["given"]


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("form", ["[1.0, {}, 3.0]", "[[1, 2, 3], [1, {}, 3]]"])
def test_non_finite_rhs(service: Service, literal: str, form: str) -> None:
    body = json.dumps(service.submission()).replace("[1.0, 2.0, 3.0]", form.format(literal))
    response = service.http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    found = problem(response, 422, "rhs_not_finite")
    assert "finite" in found["allowed"]
    assert found["hint"]


def test_a_number_that_overflows_in_the_models_dtype(service: Service) -> None:
    found = problem(submit(service, rhs={"inline": [1.0, 1e39, 3.0]}), 422, "rhs_not_finite")
    assert "float32" in found["message"]
    assert "1e+39 at row 0, place 1" in found["given"]
    assert "float64" in found["hint"]
    wide = service.register("wide", dtype="float64")
    assert submit(service, model=wide["reference"], rhs={"inline": [1.0, 1e39, 3.0]}).status_code == 202


def test_non_finite_rhs_blob(service: Service) -> None:
    digest = service.put(npy(np.array([1.0, np.nan, 3.0], np.float32)))
    problem(submit(service, rhs={"blob": digest}), 422, "rhs_not_finite")


@pytest.mark.parametrize(
    ("array", "given"),
    [
        (np.zeros(4, np.float32), "4 numbers"),
        (np.zeros((2, 4), np.float64), "shape [2, 4]"),
        (np.zeros((1, 1, 3), np.float32), "shape [1, 1, 3]"),
        (np.zeros((0, 3), np.float32), "0 right-hand sides"),
    ],
)
def test_wrong_rhs_blob_shape(service: Service, array: Any, given: str) -> None:
    response = submit(service, rhs={"blob": service.put(npy(array))})
    assert given in problem(response, 422, "rhs_shape_mismatch")["given"]


def test_rhs_blob_of_whole_numbers(service: Service) -> None:
    response = submit(service, rhs={"blob": service.put(npy(np.arange(3)))})
    assert "float32" in problem(response, 422, "invalid_tensor")["allowed"]


def test_rhs_blob_with_a_tensor_a_parameter_that_do_not_fit(service: Service) -> None:
    blob = service.put(tensors(weight=np.zeros((1, 3), np.float32), other=np.zeros(1, np.float32)))
    found = problem(submit(service, rhs={"blob": blob}), 422, "rhs_shape_mismatch")
    for part in ("other is no parameter", "weight has shape [1, 3] instead of [1, 2]", "bias is missing"):
        assert part in found["given"]


def test_rhs_blob_that_is_no_tensor(service: Service) -> None:
    problem(submit(service, rhs={"blob": service.put(b"not a tensor at all")}), 422, "invalid_tensor")


def test_rhs_blob_that_was_not_uploaded(service: Service) -> None:
    found = problem(submit(service, rhs={"blob": digest_of(b"never sent")}), 422, "unknown_blob")
    assert "rhs.blob" in found["message"]
    assert "PUT /v1/blobs/" in found["hint"]


def test_several_right_hand_sides_at_once_or_none(service: Service) -> None:
    for rhs in ({}, {"inline": [1.0], "blob": digest_of(b"x")}):
        assert "exactly one" in problem(submit(service, rhs=rhs), 422, "validation_error")["detail"]


def test_gradient_of_points_that_do_not_fit(service: Service) -> None:
    def points(inputs: Any, targets: Any) -> dict[str, Any]:
        return {"gradient_of": {"inputs": service.put(npy(inputs)), "targets": service.put(npy(targets))}}

    good = np.zeros((2, 1), np.float32)
    response = submit(service, rhs=points(np.zeros((3, 2), np.float32), good))
    assert "[3, 2]" in problem(response, 422, "rows_mismatch")["given"]
    response = submit(service, rhs=points(np.zeros((2, 5), np.float32), good))
    assert problem(response, 422, "data_mismatch")["allowed"] == "[n, 2]"
    response = submit(service, rhs=points(np.zeros((0, 2), np.float32), np.zeros((0, 1), np.float32)))
    problem(response, 422, "empty_data")
    classes = service.register(
        "classes",
        architecture={"type": "linear", "config": {"in_features": 2, "out_features": 4}},
        weights=service.put(tensors(weight=np.ones((4, 2), np.float32), bias=np.ones(4, np.float32))),
        loss="cross_entropy",
        data={"inputs": service.put(npy(np.zeros((3, 2), np.float32))), "targets": service.put(npy(np.arange(3)))},
    )
    response = submit(service, model=classes["reference"], rhs=points(np.zeros((2, 2), np.float32), np.array([0, 4])))
    found = problem(response, 422, "targets_out_of_range")
    assert found["given"].startswith("4 at [1]")
    assert found["allowed"] == "0 to 3"


# --- method and options


def test_unknown_method(service: Service) -> None:
    found = problem(submit(service, method="cgg"), 422, "unknown_method")
    assert "cg" in found["allowed"]
    assert found["hint"] == "Did you mean 'cg'?"


def test_unknown_option(service: Service) -> None:
    found = problem(submit(service, method="cg", options={"rtoll": 1e-3}), 422, "unknown_option")
    assert found["given"] == "rtoll"
    assert "maxiter" in found["allowed"]
    assert found["hint"] == "Did you mean 'rtol'?"


@pytest.mark.parametrize(
    ("method", "options", "name"),
    [
        ("cg", {"maxiter": "many"}, "maxiter"),
        ("cg", {"rtol": 2.0}, "rtol"),
        ("lissa", {"scale": -1.0}, "scale"),
        ("arnoldi", {"woodbury": True}, "woodbury"),
    ],
)
def test_option_of_the_wrong_type_or_out_of_range(
    service: Service, method: str, options: dict[str, Any], name: str
) -> None:
    found = problem(submit(service, method=method, options=options), 422, "invalid_option")
    assert name in found["message"]
    assert found["allowed"]


def test_a_dense_hessian_beyond_the_budget_says_the_bytes_and_names_cg(make_service: MakeService) -> None:
    service = make_service(memory_budget=100)
    found = problem(submit(service, method="direct"), 422, "hessian_too_large")
    assert found["given"] == "180 bytes"
    assert found["allowed"] == "100 bytes"
    assert "'cg'" in found["hint"]
    assert submit(service, method="cg").status_code == 202


# --- the model


def test_unknown_model(service: Service) -> None:
    found = problem(submit(service, model="nobody@1"), 422, "unknown_model")
    assert found["given"] == "nobody@1"
    assert "GET /v1/models" in found["hint"]


def test_a_version_that_does_not_exist(service: Service) -> None:
    service.register("few-versions")
    problem(submit(service, model="few-versions@7"), 422, "unknown_model")


def test_a_model_reference_that_is_none(service: Service) -> None:
    problem(submit(service, model="No Such Name"), 422, "invalid_reference")


def test_weights_that_do_not_fit_list_the_first_few(service: Service) -> None:
    weights = service.put(
        tensors(weight=np.ones((2, 1), np.float32), **{f"extra{i}": np.ones(1, np.float32) for i in range(9)})
    )
    found = problem(register(service, weights=weights), 422, "weights_mismatch")
    assert "weight has shape [2, 1] instead of [1, 2]" in found["given"]
    assert "bias is missing" in found["given"]
    assert "extra0 is no parameter of the architecture" in found["given"]
    assert "and 6 more" in found["given"]
    assert "weight [1, 2], bias [1]" in found["allowed"]


def test_weights_of_whole_numbers(service: Service) -> None:
    weights = service.put(tensors(weight=np.ones((1, 2), np.int64), bias=np.zeros(1, np.float32)))
    assert "weight holds int64" in problem(register(service, weights=weights), 422, "weights_mismatch")["given"]


def test_a_blob_that_was_not_uploaded_names_its_field(service: Service) -> None:
    missing = digest_of(b"never sent")
    data = service.spec()["data"]
    assert "weights" in problem(register(service, weights=missing), 422, "unknown_blob")["message"]
    for field in ("inputs", "targets"):
        response = register(service, data={**data, field: missing})
        assert f"data.{field}" in problem(response, 422, "unknown_blob")["message"]


def test_unknown_architecture_and_a_config_that_describes_none(service: Service) -> None:
    response = register(service, architecture={"type": "resnet-9000", "config": {}})
    assert "mlp" in problem(response, 422, "unknown_architecture")["allowed"]
    response = register(service, architecture={"type": "linear", "config": {"in_features": 0, "depth": 3}})
    found = problem(response, 422, "invalid_architecture")
    assert "depth" in found["message"]
    assert "out_features" in found["allowed"]


def test_a_parameter_pattern_that_matches_nothing(service: Service) -> None:
    response = register(service, parameters={"include": ["head.*"]})
    assert "weight" in problem(response, 422, "unknown_parameters")["allowed"]


def test_unknown_loss_and_options_that_it_does_not_have(service: Service) -> None:
    assert "mse" in problem(register(service, loss="hinge"), 422, "unknown_loss")["allowed"]
    problem(register(service, loss={"type": "mse", "label_smoothing": 0.1}), 422, "loss_mismatch")


# --- the data


def classifier(service: Service, targets: Any, **changes: Any) -> httpx.Response:
    return register(
        service,
        architecture={"type": "linear", "config": {"in_features": 2, "out_features": 3}},
        weights=service.put(tensors(weight=np.ones((3, 2), np.float32), bias=np.ones(3, np.float32))),
        data={
            "inputs": service.put(npy(np.zeros((len(targets), 2), np.float32))),
            "targets": service.put(npy(targets)),
        },
        **{"loss": "cross_entropy", **changes},
    )


@pytest.mark.parametrize("stray", [3, -1])
def test_targets_out_of_range(service: Service, stray: int) -> None:
    found = problem(classifier(service, np.array([0, 2, stray, 1])), 422, "targets_out_of_range")
    assert found["given"].startswith(f"{stray} at [2]")
    assert found["allowed"] == "0 to 2"
    assert found["hint"]


def test_a_target_that_the_loss_ignores_may_be_out_of_range(service: Service) -> None:
    loss = {"type": "cross_entropy", "ignore_index": -1}
    assert classifier(service, np.array([0, -1]), loss=loss).status_code == 201
    found = problem(classifier(service, np.array([-1, 7]), loss=loss), 422, "targets_out_of_range")
    assert "-1 (ignore_index)" in found["allowed"]


def test_targets_that_are_no_classes(service: Service) -> None:
    problem(classifier(service, np.array([0.0, 1.0])), 422, "loss_mismatch")
    problem(classifier(service, np.zeros((2, 3), np.int64)), 422, "loss_mismatch")


def test_targets_are_not_broadcast(service: Service) -> None:
    data = {**service.spec()["data"], "targets": service.put(npy(np.zeros(10, np.float32)))}
    found = problem(register(service, data=data), 422, "loss_mismatch")
    assert found["allowed"] == "[n, 1]"
    assert "Reshape" in found["hint"]


def test_empty_data(service: Service) -> None:
    data = {
        "inputs": service.put(npy(np.zeros((0, 2), np.float32))),
        "targets": service.put(npy(np.zeros((0, 1), np.float32))),
    }
    assert "at least one row" in problem(register(service, data=data), 422, "empty_data")["allowed"]


def test_rows_that_differ(service: Service) -> None:
    data = {**service.spec()["data"], "targets": service.put(npy(np.zeros((9, 1), np.float32)))}
    found = problem(register(service, data=data), 422, "rows_mismatch")
    assert "[10, 2]" in found["given"]
    assert "[9, 1]" in found["given"]


def test_inputs_of_the_wrong_shape_or_kind(service: Service) -> None:
    data = service.spec()["data"]
    wrong = service.put(npy(np.zeros((10, 3), np.float32)))
    assert problem(register(service, data={**data, "inputs": wrong}), 422, "data_mismatch")["allowed"] == "[n, 2]"
    whole = service.put(npy(np.zeros((10, 2), np.int64)))
    problem(register(service, data={**data, "inputs": whole}), 422, "data_mismatch")


def test_language_model_data(service: Service) -> None:
    config = {"vocabulary": 5, "context": 4, "width": 2, "heads": 1, "layers": 1}
    from ihvp.models.architectures import TransformerLmConfig

    shapes = TransformerLmConfig.model_validate(config).layout()
    weights = service.put(tensors(**{name: np.zeros(shape, np.float32) for name, shape in shapes}))

    def lm(inputs: Any, targets: Any) -> httpx.Response:
        return register(
            service,
            architecture={"type": "transformer-lm", "config": config},
            weights=weights,
            loss="cross_entropy",
            data={"inputs": service.put(npy(inputs)), "targets": service.put(npy(targets))},
        )

    assert lm(np.full((2, 4), 4), np.zeros((2, 4), np.int64)).status_code == 201
    problem(lm(np.full((2, 4), 5), np.zeros((2, 4), np.int64)), 422, "data_mismatch")
    problem(lm(np.zeros((2, 5), np.int64), np.zeros((2, 5), np.int64)), 422, "data_mismatch")
    problem(lm(np.zeros((2, 4), np.int64), np.zeros(2, np.int64)), 422, "loss_mismatch")
    problem(lm(np.zeros((2, 4), np.int64), np.full((2, 4), 5)), 422, "targets_out_of_range")


def test_data_that_is_no_readable_tensor(service: Service) -> None:
    lying = struct.pack("<Q", 2**60) + b"{}"
    pickled = npy(np.zeros(2, np.float32)).replace(b"'<f4'", b"'|O8'")
    for blob in (b"", b"\x93NUMPY", lying, pickled):
        data = {**service.spec()["data"], "inputs": service.put(blob)}
        problem(register(service, data=data), 422, "invalid_tensor")


# --- bodies


def test_malformed_json(service: Service) -> None:
    for body in (b'{"model": ', b"", b"\xff\xfe", b"[" * 100_000, b'{"hessian_perturbation": NaN}'):
        response = service.http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        if body:
            problem(response, 400, "malformed_json")
        else:
            problem(response, 422, "validation_error")


def test_fields_that_are_missing_unknown_or_of_the_wrong_type_are_listed(service: Service) -> None:
    body = {"rhs": {"inline": [1.0]}, "lambda": 3, "priority": "soon"}
    found = problem(service.http.post("/v1/jobs", json=body), 422, "validation_error")
    assert {tuple(e["loc"]) for e in found["errors"]} == {("body", "model"), ("body", "lambda"), ("body", "priority")}


def test_a_million_faults_are_not_all_listed(service: Service) -> None:
    response = submit(service, rhs={"inline": ["x"] * 300_000})
    problem(response, 422, "validation_error")
    assert len(response.content) < 20_000


def test_a_body_without_its_content_type_says_so(service: Service) -> None:
    response = service.http.post("/v1/jobs", content=b"{}", headers={"Content-Type": "text/plain"})
    assert "Content-Type" in problem(response, 422, "validation_error")["hint"]


def test_body_too_large(make_service: MakeService) -> None:
    service = make_service(max_body_bytes=10_000, max_blob_bytes=1_000)
    body = json.dumps({"model": "x" * 20_000})
    headers = {"Content-Type": "application/json"}
    found = problem(service.http.post("/v1/jobs", content=body, headers=headers), 413, "body_too_large")
    assert "10000 bytes" in found["allowed"]
    assert "PUT /v1/blobs" in found["hint"]
    # Without an announced length it is found out while reading.
    pieces = (body[i : i + 1000].encode() for i in range(0, len(body), 1000))
    problem(service.http.post("/v1/jobs", content=pieces, headers=headers), 413, "body_too_large")
    blob = bytes(1_001)
    found = problem(service.http.put(f"/v1/blobs/{digest_of(blob)}", content=blob), 413, "body_too_large")
    assert "1000 bytes" in found["allowed"]
    problem(service.http.get(f"/v1/blobs/{digest_of(blob)}"), 404, "blob_not_found")


def test_a_body_too_large_that_comes_in_one_piece_is_answered(make_service: MakeService) -> None:
    """Neither announced nor cut up: its first message is its last."""
    service = make_service(max_body_bytes=1_000)
    url = urlsplit(str(service.http.base_url))
    body = b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n"
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
        connection.sendall(head + body)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_digest_mismatch(service: Service) -> None:
    named = digest_of(b"what was meant")
    found = problem(service.http.put(f"/v1/blobs/{named}", content=b"what was sent"), 422, "digest_mismatch")
    assert digest_of(b"what was sent") in json.dumps(found)
    assert named in json.dumps(found)
    problem(service.http.get(f"/v1/blobs/{named}"), 404, "blob_not_found")


def test_a_refused_job_leaves_nothing_in_the_queue(make_service: MakeService) -> None:
    service = make_service()
    for changes in ({"rhs": {"inline": [1.0]}}, {"method": "nope"}, {"model": "nobody"}, {"options": {"x": 1}}):
        assert submit(service, **changes).status_code == 422
    assert service.http.get("/v1/jobs").json()["jobs"] == []
    assert service.jobs.queue_length() == 0


# --- addresses


def test_unknown_addresses_and_methods(service: Service) -> None:
    problem(service.http.get("/v2/jobs"), 404, "not_found")
    response = service.http.put("/v1/jobs")
    assert "POST" in problem(response, 405, "method_not_allowed")["allowed"]
    assert "POST" in response.headers["allow"]


@pytest.mark.parametrize("job_id", ["job_01JZZZZZZZZZZZZZZZZZZZZZZZ", "x", "job_..%2f..", "a:b:events"])
@pytest.mark.parametrize("rest", ["", "/result", "/influence", "/events"])
def test_unknown_job(service: Service, job_id: str, rest: str) -> None:
    problem(service.http.get(f"/v1/jobs/{job_id}{rest}"), 404, "job_not_found" if "%2f" not in job_id else "not_found")


def test_unknown_model_and_version_by_address(service: Service) -> None:
    service.register("addressed")
    for path in ("nobody", "nobody/1", "addressed/99", "addressed/first", "UPPER"):
        problem(service.http.get(f"/v1/models/{path}"), 404, "model_not_found")


def test_a_digest_that_is_none(service: Service) -> None:
    problem(service.http.get("/v1/blobs/sha256:abc"), 422, "invalid_reference")


def test_a_query_that_is_wrong(service: Service) -> None:
    for query in ("limit=0", "state=asleep", "tag=nocolon", "created_after=soon", "nonsense=1", "limit=x"):
        problem(service.http.get(f"/v1/jobs?{query}"), 422, "validation_error")
    problem(service.http.get("/v1/jobs?method=magic"), 422, "unknown_method")
    problem(service.http.get("/v1/jobs?model=No%20Name"), 422, "invalid_reference")
    problem(service.http.get("/v1/jobs/job_01JZZZZZZZZZZZZZZZZZZZZZZZ?wait=nan"), 422, "validation_error")
