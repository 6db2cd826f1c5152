"""API keys over HTTP: who is let in, for what, and how soon a revoked one is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
import redis

from app.authentication import TRUSTED_S
from ihvp.client import Client
from ihvp.errors import Forbidden, Unauthenticated
from ihvp.keys.key import KeySpec, Scope, Secret
from ihvp.keys.redis_store import RedisKeyStore
from tests.app.conftest import MakeService
from tests.app.driver import Service, problem

HEALTH = ["/healthz", "/readyz", "/docs", "/openapi.json"]


@pytest.fixture
def service(make_service: MakeService) -> Service:
    return make_service()


@pytest.fixture
def keys(service: Service) -> Iterator[RedisKeyStore]:
    with closing(RedisKeyStore.from_settings(service.settings)) as store:
        yield store


def make(keys: RedisKeyStore, scope: Scope = Scope.Submit, tenant: str = "default", **limits: float) -> str:
    secret = Secret.draw()
    keys.create(secret.id, KeySpec(name="test", tenant=tenant, scope=scope, sha256=secret.sha256), **limits)
    return str(secret)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def refused_soon(service: Service, headers: dict[str, str]) -> float:
    """Seconds until a request is refused."""
    began = time.monotonic()
    while service.http.get("/v1/jobs", headers=headers).status_code != 401:
        assert time.monotonic() - began < 10 * TRUSTED_S
        time.sleep(0.02)
    return time.monotonic() - began


def test_without_keys_everybody_is_let_in(service: Service) -> None:
    job = service.submit()
    assert service.http.get(f"/v1/jobs/{job['id']}", headers=bearer("anything")).status_code == 200
    assert service.http.get("/metrics").status_code == 200


def test_with_the_first_key_nobody_is_without_one(service: Service, keys: RedisKeyStore) -> None:
    job = service.submit()
    key = make(keys)
    assert refused_soon(service, {}) < TRUSTED_S + 1
    body = problem(service.http.get("/v1/jobs"), 401, "unauthenticated")
    assert "ihvp keys create" in body["hint"]
    assert service.http.get("/v1/jobs").headers["www-authenticate"].startswith("Bearer")
    found = service.http.get(f"/v1/jobs/{job['id']}", headers=bearer(key))
    assert found.status_code == 200, "what was made before there were keys is the default tenant's"
    for path in HEALTH:
        assert service.http.get(path).status_code in (200, 503), path


@pytest.mark.parametrize(
    "written", ["", "Bearer", "Bearer ihvp_1_2", "Basic dTpw", f"Bearer ihvp_{'0' * 12}_{'0' * 64}"]
)
def test_what_is_no_key_is_refused(service: Service, keys: RedisKeyStore, written: str) -> None:
    make(keys)
    problem(service.http.get("/v1/jobs", headers={"Authorization": written}), 401, "unauthenticated")


def test_a_key_is_its_id_and_its_secret(service: Service, keys: RedisKeyStore) -> None:
    key = make(keys)
    wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
    assert service.http.get("/v1/jobs", headers=bearer(key)).status_code == 200
    body = problem(service.http.get("/v1/jobs", headers=bearer(wrong)), 401, "unauthenticated")
    assert wrong not in str(body)


def test_nothing_of_a_body_is_read_for_a_caller_without_a_key(service: Service, keys: RedisKeyStore) -> None:
    make(keys)
    response = service.http.post("/v1/jobs", content=b"{not json", headers={"Content-Type": "application/json"})
    problem(response, 401, "unauthenticated")


def test_a_revoked_key_stops_within_two_seconds_and_the_service_stays_closed(
    service: Service, keys: RedisKeyStore
) -> None:
    key = make(keys)
    assert service.http.get("/v1/jobs", headers=bearer(key)).status_code == 200
    keys.revoke(key.split("_")[1])
    assert refused_soon(service, bearer(key)) < TRUSTED_S + 1
    assert "revoked" in problem(service.http.get("/v1/jobs", headers=bearer(key)), 401, "unauthenticated")["detail"]
    problem(service.http.get("/v1/jobs"), 401, "unauthenticated")


def test_an_expired_key_is_refused(service: Service, keys: RedisKeyStore) -> None:
    key = make(keys, expires_s=1e-6)
    assert "expired" in problem(service.http.get("/v1/jobs", headers=bearer(key)), 401, "unauthenticated")["detail"]


def test_a_scope_allows_what_those_before_it_do(service: Service, keys: RedisKeyStore) -> None:
    read, submit, admin = (make(keys, scope) for scope in Scope)
    for key in (read, submit, admin):
        assert service.http.get("/v1/jobs", headers=bearer(key)).status_code == 200
    body = problem(service.http.post("/v1/jobs", json={}, headers=bearer(read)), 403, "forbidden")
    assert "scope submit" in body["allowed"]
    assert service.http.post("/v1/jobs", json={}, headers=bearer(submit)).status_code == 422
    problem(service.http.get("/metrics", headers=bearer(submit)), 403, "forbidden")
    assert service.http.get("/metrics", headers=bearer(admin)).status_code == 200


def test_use_is_noted(service: Service, keys: RedisKeyStore) -> None:
    key = make(keys)
    assert service.http.get("/v1/jobs", headers=bearer(key)).status_code == 200
    until = time.monotonic() + 10
    while keys.list()[0].used_at is None:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_client_sends_its_key(service: Service, keys: RedisKeyStore) -> None:
    key = make(keys, Scope.Read)
    with Client(str(service.http.base_url), api_key=key) as client:
        assert list(client.jobs()) == []
        with pytest.raises(Forbidden):
            client.cancel("job_00000000000000000000000000")
    with Client(str(service.http.base_url)) as client, pytest.raises(Unauthenticated):
        list(client.jobs())


def test_a_polling_caller_costs_the_store_no_second_round_trip(service: Service, keys: RedisKeyStore) -> None:
    key = make(keys)
    job = service.http.post("/v1/models", json={}, headers=bearer(key))
    assert job.status_code == 422
    store = redis.Redis.from_url(service.settings.redis_url)
    with httpx.Client(base_url=service.http.base_url, headers=bearer(key)) as http:
        http.get("/v1/jobs/job_00000000000000000000000000")
        began = time.monotonic()
        before = store.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
        polls = 0
        while time.monotonic() - began < TRUSTED_S / 4:
            http.get("/v1/jobs/job_00000000000000000000000000")
            polls += 1
        calls = store.info("commandstats")["cmdstat_evalsha"]["calls"] - before
    assert polls > 5
    assert calls <= polls + 5
