"""One trace a job, through the API and a worker as real processes, into a real OTLP receiver."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import safetensors.numpy

from ihvp.settings import Settings
from tests.app.driver import digest_of, npy, running_api
from tests.service.collector import Collector, Seen, collecting
from tests.waiting import eventually
from tests.workers.running import RunningWorker, Service

ROOT = Path(__file__).resolve().parents[2]
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE = PARENT.split("-")[1]


class Traced:
    """An API and the folder for workers, both told of a collector."""

    def __init__(self, settings: Settings, http: httpx.Client, collector: Collector, log: io.StringIO) -> None:
        self.settings = settings
        self.http = http
        self.collector = collector
        self.log = log
        self.model = self._register()

    def submit(self, headers: dict[str, str] | None = None, **changes: Any) -> str:
        body = {"model": self.model, "rhs": {"inline": [1.0, 2.0, 3.0]}, "hessian_perturbation": 0.1, **changes}
        answer = self.http.post("/v1/jobs", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def ended(self, job_id: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            job: dict[str, Any] = self.http.get(f"/v1/jobs/{job_id}").json()
            return job if job["finished_at"] else None

        return eventually(look, 40.0)

    def _register(self) -> str:
        rng = np.random.default_rng(3)

        def put(data: bytes) -> str:
            digest = digest_of(data)
            self.http.put(f"/v1/blobs/{digest}", content=data).raise_for_status()
            return digest

        weights = {"weight": np.ones((1, 2), np.float32), "bias": np.zeros(1, np.float32)}
        spec = {
            "name": "line",
            "architecture": {"type": "linear", "config": {"in_features": 2, "out_features": 1}},
            "weights": put(safetensors.numpy.save(weights)),
            "loss": "mse",
            "data": {
                "inputs": put(npy(rng.normal(size=(20, 2)).astype(np.float32))),
                "targets": put(npy(rng.normal(size=(20, 1)).astype(np.float32))),
            },
        }
        return str(self.http.post("/v1/models", json=spec).raise_for_status().json()["reference"])


@pytest.fixture
def traced(valkey: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # of the SDK: as fast as a test can wait
    with ExitStack() as stack:
        collector = stack.enter_context(collecting())
        settings = valkey.model_copy(update={"otlp_endpoint": collector.url, "log_level": "info"})
        log = io.StringIO()
        monkeypatch.setattr("sys.stderr", log)
        url = stack.enter_context(running_api(settings))
        http = stack.enter_context(httpx.Client(base_url=url, timeout=20))
        yield Traced(settings, http, collector, log)


def by_name(spans: list[Seen], trace: str) -> dict[str, Seen]:
    return {span.name: span for span in spans if span.trace == trace}


def test_a_job_is_one_trace_from_the_request_to_its_end(traced: Traced, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    job_id = traced.submit({"traceparent": PARENT, "X-Request-ID": "req-77"})
    worker = RunningWorker(Service(traced.settings), log, otlp_endpoint=traced.collector.url)
    try:
        assert traced.ended(job_id)["state"] == "succeeded"
        traced.collector.wait_for("ihvp.attempt")
        traced.collector.wait_for("POST /v1/jobs")
    finally:
        worker.terminate()
        worker.close()
    spans = by_name(traced.collector.spans, TRACE)
    request, attempt = spans["POST /v1/jobs"], spans["ihvp.attempt"]
    assert request.parent == PARENT.split("-")[2]
    assert request.service == "ihvp-api"
    assert request.attributes["http.route"] == "/v1/jobs"
    assert request.attributes["ihvp.job_id"] == attempt.attributes["ihvp.job_id"] == job_id
    assert attempt.attributes["ihvp.request_id"] == "req-77"
    assert attempt.service == "ihvp-worker"
    children = {
        "ihvp.queue": request, "ihvp.attempt": request, "ihvp.claim": attempt, "ihvp.load": attempt,
        "ihvp.rhs": attempt, "ihvp.solve": attempt, "ihvp.store": attempt, "ihvp.finish": attempt,
        "ihvp.iterations": spans["ihvp.solve"],
    }  # fmt: skip
    assert {name: spans[name].parent for name in children} == {name: above.id for name, above in children.items()}
    assert spans["ihvp.iterations"].attributes["ihvp.last_iteration"] >= 1
    order = ["ihvp.queue", "ihvp.load", "ihvp.rhs", "ihvp.solve", "ihvp.store", "ihvp.finish"]
    starts = [spans[name].start for name in order]
    assert starts == sorted(starts)
    assert all(span.end >= span.start for span in spans.values())
    assert not any(span.failed for span in spans.values())
    # A poll is a trace of its own, named by its route and not by the job.
    assert any(span.name == "GET /v1/jobs/{job_id}" and span.trace != TRACE for span in traced.collector.spans)
    assert not any("job_0" in span.name for span in traced.collector.spans)
    # The lines that were logged about the job lead to the trace and to the request.
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    password = urlsplit(traced.settings.redis_url).password
    assert password
    assert password not in log.read_text() + traced.log.getvalue()
    mine = [line for line in lines if line.get("job_id") == job_id]
    assert {line["event"] for line in mine} >= {"job_claimed", "job_done"}
    assert {(line["request_id"], line["trace_id"], line["attempt"]) for line in mine} == {("req-77", TRACE, 1)}
    logged = [json.loads(line) for line in traced.log.getvalue().splitlines() if "req-77" in line]
    assert {line["event"] for line in logged} == {"job_accepted", "request"}
    assert {(line["job_id"], line["trace_id"]) for line in logged} == {(job_id, TRACE)}


def test_jobs_solved_together_are_linked(traced: Traced, tmp_path: Path) -> None:
    good = [traced.submit() for _ in range(3)]
    worker = RunningWorker(Service(traced.settings), tmp_path / "worker.log", otlp_endpoint=traced.collector.url)
    try:
        for job_id in good:
            assert traced.ended(job_id)["state"] == "succeeded"
        attempts = traced.collector.wait_for("ihvp.attempt", 3)
    finally:
        worker.terminate()
        worker.close()
    assert len({span.trace for span in attempts}) == 3
    assert {span.attributes["ihvp.jobs_in_block"] for span in attempts} == {3}
    first = next(span for span in attempts if span.attributes["ihvp.job_id"] == good[0])
    others = [span for span in attempts if span is not first]
    assert [span.links for span in others] == [[first.id]] * 2
    requests = {span.id for span in traced.collector.wait_for("POST /v1/jobs", 3)}
    assert len(first.links) == 2
    assert set(first.links) <= requests


def test_every_span_is_documented() -> None:
    from workers.tracing import SPANS

    documented = set(re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE))
    made = {*SPANS.values(), "ihvp.queue", "ihvp.attempt", "ihvp.claim", "ihvp.iterations"}
    assert {name for name in documented if name.startswith("ihvp.")} == made


def test_without_a_collector_a_traceparent_still_travels_with_the_job(valkey: Settings) -> None:
    with running_api(valkey) as url, httpx.Client(base_url=url, timeout=20) as http:
        untraced = Traced(valkey, http, Collector(""), io.StringIO())
        store = Service(valkey).store
        assert store.get(untraced.submit({"traceparent": PARENT})).trace == PARENT
        for bad in ("00-zz-1-01", PARENT.upper(), PARENT.replace(TRACE, "0" * 32), "x" * 5000):
            assert store.get(untraced.submit({"traceparent": bad})).trace is None
        assert store.get(untraced.submit()).trace is None


def test_a_collector_that_is_away_holds_up_neither_requests_nor_stops(valkey: Settings, tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    settings = valkey.model_copy(update={"otlp_endpoint": nowhere, "log_level": "error"})
    with running_api(settings) as url, httpx.Client(base_url=url, timeout=20) as http:
        untraced = Traced(settings, http, Collector(""), io.StringIO())
        worker = RunningWorker(Service(settings), tmp_path / "worker.log", otlp_endpoint=nowhere)
        try:
            assert untraced.ended(untraced.submit())["state"] == "succeeded"
            assert worker.terminate() < 8
        finally:
            worker.close()
