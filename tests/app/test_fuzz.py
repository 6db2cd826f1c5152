"""Whatever bytes callers send, the deployed API answers with a code, keeps nothing half-done, and serves the next."""

from __future__ import annotations

import base64
import gzip
import json
import secrets
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ihvp import errors
from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from tests.app.driver import Service, api_process, digest_of, npy, problem
from tests.tensors.damaged import BOMBS, damaged_files

MIB = 2**20
JSON = {"Content-Type": "application/json"}
CODES = {getattr(errors, name).code for name in errors.__all__}
FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

VALUES = st.recursive(
    st.sampled_from(
        [None, True, 0, -1, 1, 2**63, -(2**63), 10**400, 1e308, 0.1, "", "x", "\ud800", "sha256:" + "0" * 64]
    )
    | st.text(max_size=5)
    | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def deployed(
    valkey_server: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, psutil.Process]]:
    made = Settings(
        redis_url=valkey_server.url,
        namespace=f"t-{secrets.token_hex(6)}",
        data_dir=tmp_path_factory.mktemp("data"),
    )
    with (
        api_process(made) as (url, process),
        httpx.Client(base_url=url, timeout=20) as http,
        closing(RedisJobStore.from_settings(made)) as jobs,
    ):
        service = Service(made, http, jobs, FilesystemBlobStore(made.blob_dir))
        solves_a_good_job(service)
        yield service, process
        # After all that was sent to it.
        solves_a_good_job(service)
        assert process.memory_info().rss < 120 * MIB + 40 * MIB
        assert list((made.blob_dir / "unfinished").iterdir()) == []


@pytest.fixture
def service(deployed: tuple[Service, psutil.Process]) -> Service:
    return deployed[0]


def solves_a_good_job(service: Service) -> None:
    job = service.submit()
    service.finish(service.claim(job["id"]), np.zeros(3, np.float32))
    assert service.http.get(job["links"]["self"]).json()["state"] == "succeeded"


def understood(response: httpx.Response) -> httpx.Response:
    """Checks that the answer is no fault of the service."""
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/problem+json"
        body = response.json()
        assert body["code"] in CODES, body
        assert body["code"] != "internal_error"
        assert len(response.content) < 30_000
    return response


def all_places(service: Service, digest: str) -> Iterator[httpx.Response]:
    """Requests that read the blob in every place where a blob can stand."""
    good = service.spec()
    data = good["data"]
    for name, spec in {
        "weights": {**good, "weights": digest},
        "inputs": {**good, "data": {**data, "inputs": digest}},
        "targets": {**good, "data": {**data, "targets": digest}},
    }.items():
        yield service.http.post("/v1/models", json={"name": f"fuzzed-{name}", **spec})
    for rhs in ({"blob": digest}, {"gradient_of": {"inputs": digest, "targets": data["targets"]}}):
        yield service.http.post("/v1/jobs?dry_run=true", json=service.submission(rhs=rhs))
        yield service.http.post("/v1/jobs", json=service.submission(rhs=rhs))


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_does_not_go_off(deployed: tuple[Service, psutil.Process], bomb: str) -> None:
    service, process = deployed
    digest = service.put(BOMBS[bomb])
    before = process.memory_info().rss
    for response in all_places(service, digest):
        understood(response)
        assert response.status_code == 422, "none of them is what a place asks for"
    assert process.memory_info().rss - before < 24 * MIB


@FUZZ
@given(data=damaged_files())
def test_any_bytes_as_a_tensor(service: Service, data: bytes) -> None:
    digest = service.put(data)
    for response in all_places(service, digest):
        understood(response)


@FUZZ
@given(data=st.binary(max_size=50), cut=st.integers(0, 60), more=st.binary(max_size=5))
def test_any_part_of_an_upload(service: Service, data: bytes, cut: int, more: bytes) -> None:
    said = base64.b64encode(digest_of(data).removeprefix("sha256:").encode()).decode()
    tus = {"Tus-Resumable": "1.0.0"}
    made = understood(
        service.http.post(
            "/v1/uploads", headers={**tus, "Upload-Length": str(len(data)), "Upload-Metadata": f"sha256 {said}"}
        )
    )
    part = {**tus, "Content-Type": "application/offset+octet-stream"}
    for offset, sent in ((0, data[:cut] + more), (cut, data[cut:]), (min(cut, len(data)), data[cut:] + more)):
        understood(
            service.http.patch(made.headers["location"], content=sent, headers={**part, "Upload-Offset": str(offset)})
        )
    found = service.http.get(f"/v1/blobs/{digest_of(data)}")
    assert found.status_code == 404 or found.content == data
    service.http.delete(made.headers["location"], headers=tus)


@FUZZ
@given(
    length=st.text(max_size=8) | st.integers().map(str),
    metadata=st.text(max_size=30),
    offset=st.text(max_size=8) | st.integers().map(str),
    checksum=st.text(max_size=20),
)
def test_any_header_of_an_upload(service: Service, length: str, metadata: str, offset: str, checksum: str) -> None:
    def sent(**headers: str) -> list[tuple[bytes, bytes]]:
        pairs = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream", **headers}
        # What cannot stand in a header at all does not reach the service.
        return [
            (name.encode(), value.encode("utf-8", "replace").translate(None, bytes(range(32)) + b"\x7f").strip())
            for name, value in pairs.items()
        ]

    more = {"Upload-Length": length, "Upload-Metadata": metadata, "Upload-Checksum": checksum}
    response = understood(service.http.post("/v1/uploads", content=b"x", headers=sent(**more)))
    place = response.headers.get("location", "/v1/uploads/" + "0" * 32)
    understood(
        service.http.patch(place, content=b"x", headers=sent(**{"Upload-Offset": offset, "Upload-Checksum": checksum}))
    )


def changed(service: Service, place: list[str], value: Any) -> bytes:
    """A good submission with one value in the wrong place."""
    body = service.submission(options={"rtol": 1e-3}, tags={"a": "b"}, influence={"on": "training"})
    at: Any = body
    for name in place[:-1]:
        at = at.setdefault(name, {})
    at[place[-1]] = value
    return json.dumps(body).encode("ascii")


PLACES = [
    ["rhs"], ["rhs", "inline"], ["rhs", "blob"], ["rhs", "gradient_of"], ["model"], ["method"], ["options"],
    ["options", "rtol"], ["hessian_perturbation"], ["curvature"], ["tags"], ["tags", "a"], ["priority"],
    ["deadline_s"], ["influence"], ["unheard-of"],
]  # fmt: skip


@settings(FUZZ, max_examples=150)
@given(place=st.sampled_from(PLACES), value=VALUES)
@example(place=["hessian_perturbation"], value=10**400)
@example(place=["tags", "a"], value="\ud800")
def test_any_value_in_any_field(service: Service, place: list[str], value: Any) -> None:
    understood(service.http.post("/v1/jobs?dry_run=true", content=changed(service, place, value), headers=JSON))


@pytest.mark.parametrize("levels", [33, 100, 900, 2000, 1_000_000])
@pytest.mark.parametrize("place", [["options"], ["rhs", "inline"], ["tags", "a"]])
@pytest.mark.parametrize("brackets", ["[]", '{"a":}'])
def test_a_body_that_is_nested_deep(service: Service, levels: int, place: list[str], brackets: str) -> None:
    opening, closing_ = brackets[:-1], brackets[-1]
    body = changed(service, place, "HERE").replace(
        b'"HERE"', opening.encode() * levels + b"1" + closing_.encode() * levels
    )
    response = understood(service.http.post("/v1/jobs", content=body, headers=JSON))
    if len(body) <= service.settings.max_body_bytes:
        assert "32 levels" in problem(response, 400, "malformed_json")["detail"]


def test_brackets_within_a_text_are_no_levels(service: Service) -> None:
    body = service.submission(tags={"a": "[" * 50, "b": '\\"{{{{' * 8})
    assert service.http.post("/v1/jobs", json=body).status_code == 202


@pytest.mark.parametrize(
    ("place", "text", "status", "code"),
    [
        (["hessian_perturbation"], b"NaN", 400, "malformed_json"),
        (["hessian_perturbation"], b"Infinity", 400, "malformed_json"),
        (["hessian_perturbation"], b"1e999", 422, None),
        (["hessian_perturbation"], b"9" * 5000, 400, "malformed_json"),
        (["deadline_s"], b"1e999", 422, None),
        (["options", "rtol"], b"1e999", 422, None),
        (["options", "rtol"], b"-1e999", 422, None),
        (["rhs", "inline"], b"[1,2,NaN]", 422, "rhs_not_finite"),
        (["rhs", "inline"], b"[1,2,1e999]", 422, "rhs_not_finite"),
        (["rhs", "inline"], b"[1,2,%s]" % (b"9" * 400), 422, None),
        (["tags"], b'{"a":"1","a":"2"}', 400, "malformed_json"),
        (["tags"], b'{"a":"1"}, "tags": {"a": "2"}', 400, "malformed_json"),
    ],
)
def test_numbers_and_keys_that_are_none(
    service: Service, place: list[str], text: bytes, status: int, code: str | None
) -> None:
    body = changed(service, place, "HERE").replace(b'"HERE"', text)
    response = understood(service.http.post("/v1/jobs", content=body, headers=JSON))
    assert response.status_code == status, response.text
    assert code in (None, response.json()["code"])


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "GZIP, identity"])
def test_packed_bodies_are_not_unpacked(service: Service, coding: str) -> None:
    body = gzip.compress(json.dumps(service.submission()).encode())
    bomb = gzip.compress(bytes(64 * MIB))
    packed = {"Content-Encoding": coding}
    tus = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
    for response in (
        service.http.post("/v1/jobs", content=body, headers={**JSON, **packed}),
        service.http.post("/v1/models", content=bomb, headers={**JSON, **packed}),
        service.http.put(f"/v1/blobs/{digest_of(bomb)}", content=bomb, headers=packed),
    ):
        assert "Content-Encoding" in problem(response, 415, "unsupported_media_type")["detail"]
    understood(service.http.patch("/v1/uploads/" + "0" * 32, content=bomb, headers={**tus, **packed}))
    problem(service.http.get(f"/v1/blobs/{digest_of(bomb)}"), 404, "blob_not_found")


def test_a_gzipped_tensor_is_named_as_no_tensor(service: Service) -> None:
    digest = service.put(gzip.compress(npy(np.ones(3, np.float32))))
    response = service.http.post("/v1/jobs", json=service.submission(rhs={"blob": digest}))
    problem(response, 422, "invalid_tensor")
