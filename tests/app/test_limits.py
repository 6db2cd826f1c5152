"""Limits and quotas of a tenant: what is past them is refused with 429, and another tenant notices nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import httpx
import numpy as np
import pytest

from ihvp.keys.key import KeySpec, Scope, Secret
from ihvp.keys.redis_store import RedisKeyStore
from ihvp.wire import JobView
from tests.app.conftest import MakeService
from tests.app.driver import Service, digest_of, problem, tensors

MakeTenant = Callable[[Service, str], httpx.Client]


@pytest.fixture
def tenant() -> Iterator[MakeTenant]:
    """Gives a tenant a key, and a client that sends it."""
    with ExitStack() as stack:

        def make(service: Service, name: str) -> httpx.Client:
            secret = Secret.draw()
            with closing(RedisKeyStore.from_settings(service.settings)) as keys:
                spec = KeySpec(name="test", tenant=name, scope=Scope.Submit, sha256=secret.sha256)
                keys.create(secret.id, spec)
            headers = {"Authorization": f"Bearer {secret}"}
            return stack.enter_context(httpx.Client(base_url=service.http.base_url, headers=headers, timeout=20))

        yield make


def as_tenant(service: Service, http: httpx.Client) -> Service:
    return Service(service.settings, http, service.jobs, service.blobs)


def test_requests_past_the_rate_are_refused_until_the_second_is_over(
    make_service: MakeService, tenant: MakeTenant
) -> None:
    service = make_service(tenant_rate=5)
    acme, other = tenant(service, "acme"), tenant(service, "other")
    first = acme.get("/v1/jobs")
    assert first.status_code == 200
    assert first.headers["ratelimit-policy"] == '"requests";q=5;w=1'
    assert first.headers["ratelimit"].startswith('"requests";r=4;t=')
    answers = [acme.get("/v1/jobs") for _ in range(40)]
    refused = next(answer for answer in answers if answer.status_code == 429)
    problem(refused, 429, "rate_limited")
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["ratelimit"].startswith('"requests";r=0;t=')
    assert other.get("/v1/jobs").status_code == 200
    assert acme.get("/healthz").status_code == 200
    until = time.monotonic() + 10
    while acme.get("/v1/jobs").status_code == 429:
        assert time.monotonic() < until
        time.sleep(0.3)


def test_without_limits_nothing_is_told_of_any(make_service: MakeService) -> None:
    response = make_service().http.get("/v1/jobs")
    assert "ratelimit" not in response.headers


def test_held_connections_are_bounded_and_free_again_once_they_end(
    make_service: MakeService, tenant: MakeTenant
) -> None:
    service = make_service(tenant_held=1)
    acme, other = tenant(service, "acme"), tenant(service, "other")
    job = as_tenant(service, acme).submit()
    with acme.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
        assert events.status_code == 200
        lines = events.iter_lines()  # kept: its end would close the stream
        next(lines)
        problem(acme.get(f"/v1/jobs/{job['id']}?wait=1"), 429, "rate_limited")
        assert acme.get(f"/v1/jobs/{job['id']}").status_code == 200
        assert other.get("/v1/jobs/job_00000000000000000000000000?wait=1").status_code == 404
    until = time.monotonic() + 10
    while acme.get(f"/v1/jobs/{job['id']}?wait=0.01").status_code == 429:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_jobs_that_wait_are_bounded_for_each_tenant_and_exactly(make_service: MakeService, tenant: MakeTenant) -> None:
    service = make_service(tenant_queue=3)
    acme, other = as_tenant(service, tenant(service, "acme")), as_tenant(service, tenant(service, "other"))
    bodies = [acme.submission() for _ in range(12)]
    statuses: list[int] = []

    def send(body: dict[str, object]) -> None:
        statuses.append(acme.http.post("/v1/jobs", json=body).status_code)

    threads = [threading.Thread(target=send, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [202] * 3 + [429] * 9
    body = problem(acme.http.post("/v1/jobs", json=bodies[0]), 429, "quota_exceeded")
    assert "IHVP_TENANT_QUEUE" in body["allowed"]
    other.submit()
    assert service.jobs.claim("worker", 30.0) is not None
    acme.submit()


def test_bytes_are_bounded_and_those_another_tenant_has_count_as_well(
    make_service: MakeService, tenant: MakeTenant
) -> None:
    service = make_service(tenant_bytes=100_000)
    acme, other = as_tenant(service, tenant(service, "acme")), as_tenant(service, tenant(service, "other"))
    large = tensors(x=np.arange(15_000, dtype=np.float32))
    digest = acme.put(large)
    assert other.put(large) == digest
    assert acme.put(large) == digest, "what it has already needs no room"
    more = tensors(x=np.ones(15_000, np.float32))
    refused = acme.http.put(f"/v1/blobs/{digest_of(more)}", content=more)
    problem(refused, 429, "quota_exceeded")
    assert acme.http.get(f"/v1/blobs/{digest_of(more)}").status_code == 404
    assert digest_of(more) not in {blob.digest for blob in service.blobs}
    acme.put(b"little")


def test_bytes_that_results_have_filled_let_no_more_be_submitted(
    make_service: MakeService, tenant: MakeTenant
) -> None:
    service = make_service(tenant_bytes=20_000)
    acme = as_tenant(service, tenant(service, "acme"))
    job = acme.submit()
    acme.finish(acme.claim(job["id"]), np.zeros((2_000, 3), np.float32))
    assert JobView.model_validate(acme.http.get(f"/v1/jobs/{job['id']}").json()).finished_at is not None
    body = acme.http.post("/v1/jobs", json={"model": "line", "rhs": {"inline": [1.0, 2.0, 3.0]}})
    problem(body, 429, "quota_exceeded")
    assert acme.http.delete(f"/v1/jobs/{job['id']}").status_code == 204
    acme.submit(model="line")


def test_numbers_of_right_hand_sides_are_bounded_an_hour(make_service: MakeService, tenant: MakeTenant) -> None:
    service = make_service(tenant_rhs_numbers=10)
    acme, other = as_tenant(service, tenant(service, "acme")), as_tenant(service, tenant(service, "other"))
    rows = {"rhs": {"inline": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]}}
    acme.submit(**rows)
    refused = acme.http.post("/v1/jobs", json=acme.submission(**rows))
    body = problem(refused, 429, "quota_exceeded")
    assert "4 are left" in body["given"]
    assert int(refused.headers["retry-after"]) >= 1
    acme.submit()
    other.submit(**rows)
    key = {"Idempotency-Key": "once"}
    submission = {**other.submission(model="line@1"), "rhs": {"inline": [1.0, 2.0, 3.0]}}
    first = other.http.post("/v1/jobs", json=submission, headers=key)
    assert [first.status_code, other.http.post("/v1/jobs", json=submission, headers=key).status_code] == [202, 200]


def test_an_upload_in_parts_is_refused_before_its_first_byte(make_service: MakeService, tenant: MakeTenant) -> None:
    service = make_service(tenant_bytes=1000)
    acme = tenant(service, "acme")
    headers = {
        "Tus-Resumable": "1.0.0",
        "Upload-Length": "1001",
        "Upload-Metadata": "sha256 "
        "M2E3YmQzZTIzNjBhM2QyOWVlYTQzNmZjZmI3ZTQ0YzczNWQxMTdjNDJkMWMxODM1NDIwYjZiOTk0MmRkNGYxYg==",
    }
    problem(acme.post("/v1/uploads", headers=headers), 429, "quota_exceeded")
