"""Liveness, readiness, metrics, request ids, and a store that is away."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog

from ihvp.methods import InversionMethod
from ihvp.up.embedded_store import EmbeddedStore
from tests.app.conftest import MakeService
from tests.app.driver import Service, problem


def hears(service: Service, worker: str = "w1") -> None:
    """A worker that lives, and took a message."""
    service.jobs.worker_alive(worker)
    service.jobs.claim(worker, 30.0)


def ready(service: Service, status: int) -> dict[str, Any]:
    """Waits for readiness or its end: an answer is kept for a second."""
    until = time.monotonic() + 5
    while (response := service.http.get("/readyz")).status_code != status:
        assert time.monotonic() < until, response.text
        time.sleep(0.05)
    found: dict[str, Any] = response.json()
    return found


def test_readiness_needs_a_live_worker_that_takes_messages(make_service: MakeService) -> None:
    service = make_service()
    assert service.http.get("/healthz").text == "ok"
    nobody = {"ready": False, "store": "ok", "broker": "ok", "workers": 0, "chain": "no worker lives"}
    assert ready(service, 503) == nobody
    service.jobs.worker_alive("w1")
    time.sleep(0.15)
    known = ready(service, 503)
    assert known["workers"] == 1
    assert known["chain"].startswith("not known yet")
    hears(service)
    assert ready(service, 200) == {"ready": True, "store": "ok", "broker": "ok", "workers": 1, "chain": "ok"}
    service.jobs.worker_gone("w1")
    assert ready(service, 503) == nobody


def test_one_message_is_sent_however_many_ask(make_service: MakeService) -> None:
    first = make_service()
    second = make_service(namespace=first.settings.namespace)
    first.jobs.worker_alive("w1")
    broker = redis.Redis.from_url(first.settings.resolved_broker_url)
    for _ in range(5):
        for service in (first, second):
            ready(service, 503)
            time.sleep(0.11)
    assert broker.llen(first.settings.queue_name) == 1


def test_a_worker_that_takes_no_messages_is_told_after_its_time(make_service: MakeService) -> None:
    service = make_service(canary_s=0.2, worker_alive_s=0.6)
    hears(service)
    assert ready(service, 200)["chain"] == "ok"
    until = time.monotonic() + 10
    while True:
        service.jobs.worker_alive("w1")
        response = service.http.get("/readyz")
        if response.status_code == 503 and response.json()["workers"]:
            break
        assert time.monotonic() < until
        time.sleep(0.05)
    assert "workers live and take no messages" in response.json()["chain"]
    hears(service)
    assert ready(service, 200)["chain"] == "ok"


def test_many_who_ask_at_once_cost_one_look(make_service: MakeService) -> None:
    service = make_service()
    hears(service)
    ready(service, 200)

    def looks() -> int:
        stats = redis.Redis.from_url(service.settings.redis_url).info("commandstats")
        return int(stats["cmdstat_evalsha"]["calls"])

    time.sleep(1.1)
    before = looks()
    for _ in range(50):
        service.http.get("/readyz")
    # Other tests' services may share the server: the fifty would cost a hundred.
    assert looks() - before < 30


def test_readiness_needs_the_broker(make_service: MakeService) -> None:
    service = make_service(broker_url="redis://127.0.0.1:1/0")
    hears(service)
    started = time.monotonic()
    response = service.http.get("/readyz")
    assert response.status_code == 503
    assert "away" in response.json()["broker"]
    assert time.monotonic() - started < 3


def test_a_store_that_is_away_answers_503_within_a_second_or_so_and_heals(
    make_service: MakeService, tmp_path: Path
) -> None:
    own = EmbeddedStore(tmp_path / "own")
    own.start()
    try:
        service = make_service(redis_url=own.url)
        submission = service.submission()
        hears(service)
        ready(service, 200)
        own.stop()
        for method, path, body in (
            ("POST", "/v1/jobs", submission),
            ("GET", "/v1/jobs", None),
            ("GET", "/v1/jobs/job_01JZZZZZZZZZZZZZZZZZZZZZZZ", None),
            ("GET", "/v1/models", None),
        ):
            started = time.monotonic()
            response = service.http.request(method, path, json=body)
            problem(response, 503, "store_unavailable")
            assert response.headers["retry-after"]
            assert time.monotonic() - started < 2
        assert service.http.get("/healthz").status_code == 200
        ready(service, 503)
        assert "ihvp_store_up 0.0" in service.http.get("/metrics").text
        own.start()
        until = time.monotonic() + 5
        while service.http.get("/v1/jobs").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        own.stop()


def test_metrics_count_requests_by_route_and_show_the_queue(make_service: MakeService) -> None:
    service = make_service()
    job = service.submit()
    service.http.get(f"/v1/jobs/{job['id']}")
    service.http.get("/v1/jobs/job_01JZZZZZZZZZZZZZZZZZZZZZZZ")
    service.jobs.worker_alive("w1")
    text = service.http.get("/metrics").text
    assert 'ihvp_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"} 1.0' in text
    assert 'ihvp_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="404"} 1.0' in text
    assert 'ihvp_jobs_submitted_total{method="cg"} 1.0' in text
    assert "ihvp_queue_length 1.0" in text
    assert "ihvp_workers 1.0" in text
    assert job["id"] not in text


def test_a_sane_request_id_comes_back_and_any_other_is_replaced(service: Service) -> None:
    assert service.http.get("/healthz", headers={"X-Request-ID": "abc-123"}).headers["x-request-id"] == "abc-123"
    made = {service.http.get("/healthz").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    for bad in ("two words", "x" * 200, '"quoted"'):
        returned = service.http.get("/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert returned != bad
    response = service.http.get("/nowhere", headers={"X-Request-ID": "lost"})
    assert problem(response, 404, "not_found")["request_id"] == "lost"


def test_a_fault_of_ours_is_500_without_a_trace_and_logged_with_the_request_id(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ihvp.jobs.redis_store import AsyncRedisJobStore

    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("the secret cause")

    service = make_service()
    monkeypatch.setattr(AsyncRedisJobStore, "list", broken)
    response = service.http.get("/v1/jobs", headers={"X-Request-ID": "find-me"})
    body = problem(response, 500, "internal_error")
    assert "secret" not in json.dumps(body)
    assert "Traceback" not in response.text
    logged = capsys.readouterr().err
    line = next(json.loads(line) for line in logged.splitlines() if "secret cause" in line)
    assert line["request_id"] == "find-me"
    assert "ZeroDivisionError" in line["exception"]


def test_every_request_is_logged_once_with_its_id(
    make_service: MakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    service = make_service(log_level="info")
    service.http.get("/v1/methods", headers={"X-Request-ID": "seen"})
    time.sleep(0.1)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"seen"' in line]
    assert [(line["path"], line["status"], line["method"]) for line in lines] == [("/v1/methods", 200, "GET")]
    structlog.reset_defaults()


def test_methods_describe_their_options_as_json_schema(service: Service) -> None:
    methods = {m["method"]: m for m in service.http.get("/v1/methods").json()["methods"]}
    assert list(methods) == [method.value for method in InversionMethod]
    assert set(methods["cg"]["options_schema"]["properties"]) >= {"rtol", "atol", "maxiter", "preconditioner"}
    assert methods["cg"]["options_schema"]["additionalProperties"] is False
    assert methods["cg"]["guarantee"]
    assert methods["cg"]["cost"]
