"""Liveness, readiness, metrics, request ids, and a store that is away."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import structlog

from ihvp.methods import InversionMethod
from ihvp.up.embedded_store import EmbeddedStore
from tests.app.conftest import MakeService
from tests.app.driver import Service, problem


def test_readiness_needs_a_live_worker(make_service: MakeService) -> None:
    service = make_service()
    assert service.http.get("/healthz").text == "ok"
    response = service.http.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {"ready": False, "store": "ok", "broker": "ok", "workers": 0}
    service.jobs.worker_alive("w1")
    response = service.http.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"ready": True, "store": "ok", "broker": "ok", "workers": 1}
    service.jobs.worker_gone("w1")
    assert service.http.get("/readyz").status_code == 503


def test_readiness_needs_the_broker(make_service: MakeService) -> None:
    service = make_service(broker_url="redis://127.0.0.1:1/0")
    service.jobs.worker_alive("w1")
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
        service.jobs.worker_alive("w1")
        assert service.http.get("/readyz").status_code == 200
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
        assert service.http.get("/readyz").status_code == 503
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
