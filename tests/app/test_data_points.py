"""Data as it is submitted: formats, several inputs, an index, sample weights; refused from headers alone."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.app.driver import Service, npy, problem, tensors

X = np.arange(20.0).reshape(10, 2).astype(np.float32)
Y = np.zeros((10, 1), np.float32)


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def lists(array: np.ndarray[Any, Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def npz(save: Callable[..., None], **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def register(service: Service, status: int = 201, **data: Any) -> dict[str, Any]:
    spec = service.spec()
    spec["data"] = {**spec["data"], **data}
    name = f"points-{secrets.token_hex(6)}"
    response = service.http.post("/v1/models", json={"name": name, **spec})
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()
    return found


def refused(service: Service, code: str, **data: Any) -> dict[str, Any]:
    spec = service.spec()
    spec["data"] = {**spec["data"], **data}
    found: dict[str, Any] = problem(service.http.post("/v1/models", json={"name": "no", **spec}), 422, code)
    return found


@pytest.mark.parametrize(
    "content",
    [
        npz(np.savez, inputs=X, targets=Y),
        npz(np.savez_compressed, inputs=X, targets=Y),
        parquet(inputs=lists(X), targets=lists(Y), text=["a"] * 10),
    ],
    ids=["npz", "deflated npz", "parquet"],
)
def test_one_file_of_each_format_holds_inputs_and_targets(service: Service, content: bytes) -> None:
    digest = service.put(content)
    model = register(service, inputs=digest, targets=digest)
    assert model["num_points"] == 10


def test_an_index_says_how_many_points_there_are(service: Service) -> None:
    assert register(service, index=[3, 3, 9])["num_points"] == 3
    blob = service.put(npy(np.array([0, 4], np.int16)))
    model = register(service, index=blob)
    assert model["num_points"] == 2
    assert model["spec"]["data"]["index"] == blob


def test_a_spec_without_the_new_fields_keeps_its_digest(service: Service) -> None:
    assert register(service)["digest"] == register(service, status=201, weights=None)["digest"]


def test_an_index_or_weights_make_another_model(service: Service) -> None:
    weights = service.put(npy(np.ones(10)))
    digests = {register(service, **data)["digest"] for data in ({}, {"index": [1]}, {"weights": weights})}
    assert len(digests) == 3


def test_gradients_at_a_held_out_part_of_the_same_file(service: Service) -> None:
    spec = service.spec()
    model = register(service, index=[0, 1, 2, 3, 4, 5, 6, 7])
    points = {**spec["data"], "index": [8, 9]}
    job = service.submit(model=model["reference"], rhs={"gradient_of": points})
    assert job["rhs"]["shape"] == [2, 3]
    assert job["rhs"]["gradient_of"]["index"] == [8, 9]
    stray = {"model": model["reference"], "rhs": {"gradient_of": {**points, "index": [10]}}}
    found = problem(service.http.post("/v1/jobs", json=stray), 422, "invalid_index")
    assert found["given"] == "row 10 at place 0"


@pytest.mark.parametrize(
    ("index", "code", "given"),
    [
        ([0, 10], "invalid_index", "row 10 at place 1"),
        (np.array([0, -1]), "invalid_index", "row -1 at place 1 of data.index"),
        (np.array([0.0]), "invalid_index", "float64"),
        (np.array([True]), "invalid_index", "bool"),
        (np.array([[1]]), "invalid_index", "[1, 1]"),
        (np.array([], np.int64), "empty_data", "data.index [0]"),
    ],
    ids=str,
)
def test_an_index_that_cannot_be_used(service: Service, index: Any, code: str, given: str) -> None:
    sent = index if isinstance(index, list) else service.put(npy(index))
    assert given in refused(service, code, index=sent)["given"]


@pytest.mark.parametrize("index", [[], [-1], [1.5], [True], ["0"]], ids=str)
def test_an_index_that_is_no_list_of_row_numbers(service: Service, index: Any) -> None:
    found = refused(service, "validation_error", index=index)
    assert any("index" in str(error["loc"]) for error in found["errors"])


@pytest.mark.parametrize(
    ("weights", "code"),
    [
        (np.ones(9), "rows_mismatch"),
        (np.ones((10, 1)), "invalid_sample_weights"),
        (np.ones(10, bool), "invalid_sample_weights"),
    ],
)
def test_weights_that_cannot_be_used(service: Service, weights: Any, code: str) -> None:
    assert "data.weights" in refused(service, code, weights=service.put(npy(weights)))["given"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array(["a"] * 10), "Turn text into token ids"),
        (pa.array([[1.0, 2.0], None] * 5), "null"),
        (pa.array([[1.0, 2.0]] * 9 + [[1.0]]), "Pad them to one length"),
    ],
    ids=["text", "nulls", "ragged"],
)
def test_columns_that_are_no_tensor(service: Service, column: Any, message: str) -> None:
    digest = service.put(parquet(inputs=column))
    assert message in refused(service, "invalid_tensor", inputs=digest)["detail"]


def test_a_file_that_lies_about_what_it_is(service: Service) -> None:
    whole = parquet(inputs=lists(X))
    for content in (whole[:-20], whole[:8] + whole[-8:], b"PAR1" + bytes(40)):
        assert "Parquet" in refused(service, "invalid_tensor", inputs=service.put(content))["message"]
    checkpoint = npz(np.savez, inputs=np.array([{}], dtype=object))
    assert "pickle" in refused(service, "invalid_tensor", inputs=service.put(checkpoint))["message"]


def test_a_built_in_architecture_takes_one_tensor(service: Service) -> None:
    inputs = service.spec()["data"]["inputs"]
    found = refused(service, "data_mismatch", inputs={"a": inputs, "b": inputs})
    assert found["given"] == "a, b"
    assert "inputs.b" in refused(service, "unknown_blob", inputs={"b": "sha256:" + "0" * 64})["message"]


def test_rows_of_several_inputs_must_agree(service: Service) -> None:
    data = service.put(tensors(a=X, b=X[:9]))
    found = refused(service, "rows_mismatch", inputs={"a": f"{data}#a", "b": f"{data}#b"})
    assert "data.inputs.a [10, 2], data.inputs.b [9, 2]" in found["given"]
