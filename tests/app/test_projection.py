"""Dot products of a result with a blob, against numpy; in flat memory, and for those alone who hold the blob."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from app.dot_products import FlatRows, RowPart, dot_products
from ihvp.tensors import read_headers
from tests.app.driver import Service, npy, problem, tensors

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def job(service: Service) -> str:
    found = service.finished(X, rhs={"inline": [[1.0, 2.0, 3.0]] * 2})
    return str(found["id"])


def get(service: Service, job: str, reference: str, **headers: str) -> httpx.Response:
    return service.http.get(f"/v1/jobs/{job}/result?projection={quote(reference)}", headers=headers)


def dots(service: Service, job: str, content: bytes, name: str = "") -> Any:
    response = get(service, job, service.put(content) + name)
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["shape"] == list(np.shape(body["dots"]))
    assert body["job_id"] == job
    return np.array(body["dots"])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_rows_of_each_dtype(service: Service, job: str, dtype: str) -> None:
    rows = RNG.normal(size=(4, 3)).astype(dtype)
    expected = X.astype(np.float64) @ rows.astype(np.float64).T
    np.testing.assert_allclose(dots(service, job, npy(rows)), expected, rtol=1e-14)
    np.testing.assert_allclose(dots(service, job, tensors(projection=rows, other=rows[:1])), expected, rtol=1e-14)
    np.testing.assert_allclose(dots(service, job, tensors(a=rows, b=rows[:1]), "#b"), expected[:, :1], rtol=1e-14)
    np.testing.assert_allclose(dots(service, job, npy(rows[1])), expected[:, 1:2], rtol=1e-14)


def test_bfloat16(service: Service, job: str) -> None:
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = X.astype(np.float64) @ rows.double().numpy().T
    np.testing.assert_allclose(dots(service, job, safetensors.torch.save({"rows": rows})), expected, rtol=1e-14)


def test_one_tensor_a_parameter_whatever_their_order_in_the_file(service: Service, job: str) -> None:
    weight, bias = RNG.normal(size=(5, 1, 2)), RNG.normal(size=(5, 1))
    expected = X.astype(np.float64) @ np.concatenate([weight.reshape(5, 2), bias], axis=1).T
    np.testing.assert_allclose(dots(service, job, tensors(bias=bias, weight=weight)), expected, rtol=1e-14)
    single = dots(service, job, tensors(bias=bias[0], weight=weight[0]))
    np.testing.assert_allclose(single, expected[:, :1], rtol=1e-14)


def test_a_spec_that_was_sent_inline_has_parameters_too(service: Service) -> None:
    inline = service.finished(np.array([1.0, 2.0, 3.0]), model=service.spec())["id"]
    found = dots(service, inline, tensors(bias=np.array([10.0]), weight=np.array([[0.5, 0.25]])))
    assert found.tolist() == [[31.0]]


def test_sums_are_in_float64(service: Service) -> None:
    job = service.finished(np.array([1.0, 1e8, -1e8], np.float32))["id"]
    assert dots(service, job, npy(np.ones(3, np.float32))).tolist() == [[1.0]]


def test_what_is_not_finite_is_null(service: Service) -> None:
    job = service.finished(np.array([1.0, np.inf, 3.0], np.float32))["id"]
    rows = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    response = get(service, job, service.put(npy(rows)))
    assert response.json()["dots"] == [[None, None]]


@pytest.mark.parametrize(
    ("content", "code", "given"),
    [
        (npy(np.zeros(4)), "projection_mismatch", "float64 [4]"),
        (npy(np.zeros((3, 2))), "projection_mismatch", "float64 [3, 2]"),
        (npy(np.zeros((1, 1, 3))), "projection_mismatch", "[1, 1, 3]"),
        (npy(np.zeros((0, 3))), "projection_mismatch", "[0, 3]"),
        (npy(np.zeros(3, np.int64)), "invalid_tensor", "int64"),
        (npy(np.zeros((50_001, 3), np.float16)), "projection_mismatch", "2 solutions times 50001 rows"),
        (tensors(weight=np.zeros((1, 2)), other=np.zeros(1)), "projection_mismatch", "bias is missing"),
        (tensors(weight=np.zeros((2, 1, 2)), bias=np.zeros((3, 1))), "projection_mismatch", "tensors of"),
        (b"no tensor at all", "invalid_tensor", "bytes of header"),
    ],
)
def test_what_does_not_fit(service: Service, job: str, content: bytes, code: str, given: str) -> None:
    assert given in problem(get(service, job, service.put(content)), 422, code)["given"]


def test_references_that_lead_nowhere(service: Service, job: str) -> None:
    nowhere = "sha256:" + "0" * 64
    assert nowhere in problem(get(service, job, nowhere), 422, "unknown_blob")["given"]
    problem(get(service, job, "https://example.com/rows.npy"), 422, "validation_error")
    rows = service.put(npy(np.ones(3)))
    problem(get(service, job, f"{rows}#missing"), 422, "invalid_tensor")
    problem(get(service, "job_01KAT5ZXQ6V5M9W3E8H2R7N4CD", rows), 404, "job_not_found")
    waiting = service.submit()["id"]
    problem(get(service, waiting, rows), 409, "job_not_finished")


def test_the_answer_is_json_and_nothing_else(service: Service, job: str) -> None:
    rows = service.put(npy(np.ones(3)))
    problem(get(service, job, rows, Accept="application/x-npy"), 406, "not_acceptable")
    path = f"/v1/jobs/{job}/result?format=npy&projection={rows}"
    problem(service.http.get(path), 406, "not_acceptable")


def test_what_a_caller_has_already_is_not_sent_again(service: Service, job: str) -> None:
    rows, others = service.put(npy(np.ones(3))), service.put(npy(np.ones((2, 3))))
    first = get(service, job, rows)
    etag = first.headers["ETag"]
    assert not etag.startswith("W/")
    assert (first.headers["Vary"], first.headers["Cache-Control"]) == ("Accept", "private, no-cache")
    again = get(service, job, rows, **{"If-None-Match": f'"other", {etag}'})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", etag)
    # Other rows, another result and the result itself are other representations.
    another = service.finished(X + 1, rhs={"inline": [[1.0, 2.0, 3.0]] * 2})["id"]
    whole = service.http.get(f"/v1/jobs/{job}/result").headers["ETag"]
    tags = [etag, get(service, job, others).headers["ETag"], get(service, another, rows).headers["ETag"], whole]
    assert len(set(tags)) == 4
    # It is not told to those who may not ask.
    problem(get(service, job, "sha256:" + "0" * 64, **{"If-None-Match": etag}), 422, "unknown_blob")


def test_any_tag_matches_an_answer_and_nothing_where_there_is_none(service: Service, job: str) -> None:
    anything = {"If-None-Match": "*"}
    assert get(service, job, service.put(npy(np.ones(3))), **anything).status_code == 304
    problem(get(service, job, service.put(npy(np.ones(2))), **anything), 422, "projection_mismatch")


def test_memory_does_not_grow_with_the_rows() -> None:
    """40 rows of a million numbers, 320 MB as float64 were they all held; read 8 MB at a time."""
    width, count = 1_000_000, 40
    content = npy(np.ones((count, width), np.float16))

    def rows(data: bytes, k: int) -> FlatRows:
        (header,) = read_headers(io.BytesIO(data))
        return FlatRows(lambda: io.BytesIO(data), k, [RowPart(header, width)])

    left, right = rows(npy(np.ones((1, width), np.float32)), 1), rows(content, count)
    tracemalloc.start()
    try:
        found = dot_products(left, right)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == [[float(width)] * count]
    assert peak < 40 * 2**20
