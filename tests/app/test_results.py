"""Results in each representation, and influence scores."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.app.conftest import MakeService
from tests.app.driver import Service, problem

SAFETENSORS, NPY = "application/vnd.safetensors", "application/x-npy"
X = np.array([[0.1, 2.0, 3.0], [4.0, 5.0, -6e-7]], np.float32)


@pytest.fixture(scope="module")
def path(service: Service) -> str:
    job = service.finished(X, rhs={"inline": [[1.0, 2.0, 3.0]] * 2})
    return f"/v1/jobs/{job['id']}/result"


def test_json_has_x_in_the_shape_that_was_sent_with_certificate_and_provenance(service: Service, path: str) -> None:
    response = service.http.get(path)
    body = response.json()
    assert response.headers["content-type"] == "application/json"
    assert np.array_equal(np.array(body["x"], np.float32), X)
    assert (body["shape"], body["dtype"]) == ([2, 3], "float32")
    assert [c["status"] for c in body["info"]["certificate"]] == ["converged"] * 2
    assert body["provenance"]["model"] == "line@1"
    stored = service.http.get(body["x_href"]).content
    assert body["digest"] == "sha256:" + hashlib.sha256(stored).hexdigest()
    assert np.array_equal(safetensors.numpy.load(stored)["x"], X)


def test_one_row_stays_a_vector(service: Service) -> None:
    job = service.finished(np.array([1.5, 2.5, 3.5]))
    body = service.http.get(f"/v1/jobs/{job['id']}/result").json()
    assert (body["x"], body["dtype"]) == ([1.5, 2.5, 3.5], "float64")


def test_numbers_that_are_not_finite_are_null(service: Service) -> None:
    job = service.finished(np.array([1.0, np.nan, -np.inf], np.float32))
    assert service.http.get(f"/v1/jobs/{job['id']}/result").json()["x"] == [1.0, None, None]


def test_binary_representations(service: Service, path: str) -> None:
    response = service.http.get(path, headers={"Accept": SAFETENSORS})
    assert response.headers["content-type"] == SAFETENSORS
    assert np.array_equal(safetensors.numpy.load(response.content)["x"], X)
    response = service.http.get(path, headers={"Accept": NPY})
    assert response.headers["content-type"] == NPY
    loaded = np.load(io.BytesIO(response.content))
    assert loaded.dtype == X.dtype
    assert np.array_equal(loaded, X)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        (f"{NPY};q=0.5, {SAFETENSORS}", SAFETENSORS),
        (f"{NPY}, {SAFETENSORS};q=0.2, */*;q=0.1", NPY),
        (f"application/json;q=0, {NPY};q=0.3, */*;q=0.2", NPY),
        (f"text/html, {SAFETENSORS};q=0.1", SAFETENSORS),
        ("application/json; charset=utf-8", "application/json"),
    ],
)
def test_the_accept_header_decides(service: Service, path: str, accept: str, expected: str) -> None:
    response = service.http.get(path, headers={"Accept": accept})
    assert response.headers["content-type"] == expected
    assert response.headers["vary"] == "Accept"


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "*/*;q=0", "image/*"])
def test_what_cannot_be_produced_is_406(service: Service, path: str, accept: str) -> None:
    found = problem(service.http.get(path, headers={"Accept": accept}), 406, "not_acceptable")
    assert SAFETENSORS in found["allowed"]


def test_a_link_may_name_the_format(service: Service, path: str) -> None:
    assert service.http.get(f"{path}?format=npy").content[:6] == b"\x93NUMPY"
    problem(service.http.get(f"{path}?format=csv"), 422, "validation_error")


def test_each_representation_has_a_strong_etag_of_its_own(service: Service, path: str) -> None:
    tags = {}
    for kind in ("application/json", SAFETENSORS, NPY):
        response = service.http.get(path, headers={"Accept": kind})
        tags[kind] = response.headers["etag"]
        assert not tags[kind].startswith("W/")
        again = service.http.get(path, headers={"Accept": kind, "If-None-Match": tags[kind]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tags[kind]
    assert len(set(tags.values())) == 3
    crossed = service.http.get(path, headers={"Accept": NPY, "If-None-Match": tags[SAFETENSORS]})
    assert crossed.status_code == 200


@pytest.mark.parametrize("kind", [SAFETENSORS, NPY])
def test_ranges_of_the_binary_representations(service: Service, path: str, kind: str) -> None:
    whole = service.http.get(path, headers={"Accept": kind})
    size = len(whole.content)
    for wanted, start, stop in (
        ("bytes=0-9", 0, 10),
        ("bytes=5-", 5, size),
        ("bytes=-7", size - 7, size),
        (f"bytes=120-{size + 99}", 120, size),
        (f"bytes=127-{size - 2}", 127, size - 1),
    ):
        part = service.http.get(path, headers={"Accept": kind, "Range": wanted})
        assert part.status_code == 206
        assert part.content == whole.content[start:stop]
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
        assert part.headers["etag"] == whole.headers["etag"]
    for ignored in ("bytes=0-1,3-4", "items=0-1", "bytes=9-2", "bytes=-"):
        assert service.http.get(path, headers={"Accept": kind, "Range": ignored}).content == whole.content
    beyond = service.http.get(path, headers={"Accept": kind, "Range": f"bytes={size}-"})
    problem(beyond, 416, "range_not_satisfiable")
    assert beyond.headers["content-range"] == f"bytes */{size}"


def test_if_range_resumes_only_the_same_bytes(service: Service, path: str) -> None:
    headers = {"Accept": NPY, "Range": "bytes=4-9"}
    etag = service.http.get(path, headers={"Accept": NPY}).headers["etag"]
    assert service.http.get(path, headers={**headers, "If-Range": etag}).status_code == 206
    assert service.http.get(path, headers={**headers, "If-Range": '"other"'}).status_code == 200


def test_above_the_inline_limit_x_is_a_link(make_service: MakeService) -> None:
    service = make_service(max_inline_elements=5)
    job = service.finished(X, rhs={"inline": [[1.0, 2.0, 3.0]] * 2})
    body = service.http.get(f"/v1/jobs/{job['id']}/result").json()
    assert body["x"] is None
    assert body["shape"] == [2, 3]
    assert np.array_equal(safetensors.numpy.load(service.http.get(body["x_href"]).content)["x"], X)
    small = service.finished(np.zeros(3, np.float32))
    assert service.http.get(f"/v1/jobs/{small['id']}/result").json()["x"] == [0.0, 0.0, 0.0]


def test_a_result_before_the_end(service: Service) -> None:
    job = service.submit()
    found = problem(service.http.get(f"/v1/jobs/{job['id']}/result"), 409, "job_not_finished")
    assert "queued" in found["given"]
    assert f"/v1/jobs/{job['id']}?wait=" in found["hint"]
    problem(service.http.get(f"/v1/jobs/{job['id']}/influence"), 409, "job_not_finished")


def test_a_job_that_failed_says_why_there_is_no_result(service: Service) -> None:
    from ihvp.jobs.record import JobError

    job = service.submit()
    claimed = service.claim(job["id"])
    service.jobs.fail(job["id"], claimed.attempt, JobError(code="out_of_memory", message="Too large.", hint="cg"))
    found = problem(service.http.get(f"/v1/jobs/{job['id']}/result"), 409, "no_result")
    assert "out_of_memory: Too large." in found["message"]
    assert service.http.get(f"/v1/jobs/{job['id']}").json()["error"]["code"] == "out_of_memory"


def test_a_result_after_its_retention(make_service: MakeService) -> None:
    service = make_service()
    job = service.finished(scores=np.zeros((1, 4), np.float32))
    assert service.jobs.drop_results(0.0) == [job["id"]]
    path = f"/v1/jobs/{job['id']}"
    problem(service.http.get(f"{path}/result"), 410, "result_expired")
    problem(service.http.get(f"{path}/influence"), 410, "result_expired")
    seen = service.http.get(path).json()
    assert seen["state"] == "succeeded"
    assert "result" not in seen["links"]


def test_influence_lists_the_most_helpful_and_the_most_harmful(service: Service) -> None:
    scores = np.array([[0.5, -3.0, 2.0, 0.0], [np.nan, 1.0, -1.0, 4.0]], np.float32)
    job = service.finished(X, scores=scores, rhs={"inline": [[1.0, 2.0, 3.0]] * 2}, influence={"on": "training"})
    path = job["links"]["influence"]
    body = service.http.get(f"{path}?top=2").json()
    assert body["shape"] == [2, 4]
    assert body["scores"] == [[0.5, -3.0, 2.0, 0.0], [None, 1.0, -1.0, 4.0]]

    def points(side: list[dict[str, Any]]) -> list[tuple[int, float]]:
        return [(p["index"], p["score"]) for p in side]

    first, second = body["top"]
    assert points(first["helpful"]) == [(2, 2.0), (0, 0.5)]
    assert points(first["harmful"]) == [(1, -3.0), (3, 0.0)]
    assert points(second["helpful"]) == [(3, 4.0), (1, 1.0)]
    assert points(second["harmful"]) == [(2, -1.0), (1, 1.0)]
    assert len(service.http.get(path).json()["top"][0]["helpful"]) == 4
    stored = safetensors.numpy.load(service.http.get(body["scores_href"]).content)["scores"]
    assert np.array_equal(stored, scores, equal_nan=True)


def test_influence_that_is_large_is_a_link(make_service: MakeService) -> None:
    service = make_service(max_inline_elements=3)
    job = service.finished(scores=np.arange(4, dtype=np.float32)[None], influence={"on": "training"})
    body = service.http.get(job["links"]["influence"]).json()
    assert body["scores"] is None
    assert body["top"][0]["helpful"][0] == {"index": 3, "score": 3.0}


def test_influence_that_was_not_asked_for(service: Service) -> None:
    job = service.finished()
    problem(service.http.get(f"/v1/jobs/{job['id']}/influence"), 409, "no_influence")
