"""The spans of an attempt: errors are on them, and a long solve does not make a span a report."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from ihvp.jobs.outlook import Origin
from ihvp.jobs.record import JobRecord
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import ResolvedRhs
from ihvp.models.spec import ModelSpec
from ihvp.settings import Settings
from ihvp.tracing import Tracing
from solvers.progress import IterationReport
from tests.service.collector import collecting
from tests.workers.bench import Bench
from tests.workers.problems import Example, job_request, new_id
from workers.execution import Executor
from workers.tracing import AttemptTrace

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_failure_is_on_the_span_of_its_phase_and_on_the_attempt(
    bench: Bench, spec: ModelSpec, digits: Example, tmp_path: Path
) -> None:
    with collecting() as collector:
        settings = Settings(data_dir=tmp_path, otlp_endpoint=collector.url)
        tracing = Tracing(settings, "ihvp-worker")
        executor = Executor(settings, bench.store, bench.blobs, "host/test", lambda: False, tracing=tracing)
        nowhere = ResolvedRhs(blob="sha256:" + "0" * 64, shape=[digits.num_params])
        request = job_request(spec, digits.num_params, nowhere)
        job, _ = bench.store.submit(new_id(), request, origin=Origin(trace=PARENT))
        executor.run_next()
        assert bench.store.get(job.id).state is JobState.Failed
        tracing.close()
        spans = {span.name: span for span in collector.spans}
    assert {span.trace for span in spans.values()} == {PARENT.split("-")[1]}
    assert spans["ihvp.attempt"].failed
    assert spans["ihvp.attempt"].attributes["ihvp.ending"] == "failed"
    assert spans["ihvp.rhs"].failed
    assert spans["ihvp.rhs"].events == spans["ihvp.attempt"].events == ["exception"]
    assert "ihvp.solve" not in spans


def test_a_long_solve_has_few_spans(claimed: JobRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000_000_000_000_000
    monkeypatch.setattr("workers.tracing.time.time_ns", lambda: now)
    with collecting() as collector:
        tracing = Tracing(Settings(data_dir=tmp_path, otlp_endpoint=collector.url), "ihvp-worker")
        trace = AttemptTrace(tracing, claimed, (now, now), 1, [])
        with trace.phase("solving"):
            for report in range(1, 4 * 3600):  # an hour, four reports a second
                now += 250_000_000
                trace.iterated(IterationReport("cg", 10 * report, 10**9, [0.5, None], 3.0 * report))
            trace.iterated(IterationReport("cg", 10 * report + 5, 10**9, [None], 9.0), last=True)
        trace.end("succeeded")
        tracing.close()
        batches = [span for span in collector.spans if span.name == "ihvp.iterations"]
    assert 50 < len(batches) < 400
    batches.sort(key=lambda span: span.start)
    assert batches[0].attributes["ihvp.first_iteration"] == 1
    # None is left out, and each begins where the one before it ended.
    for before, after in itertools.pairwise(batches):
        assert after.attributes["ihvp.first_iteration"] == before.attributes["ihvp.last_iteration"] + 1
        assert after.start == before.end
    assert batches[-1].attributes["ihvp.last_iteration"] == 10 * report + 5


@pytest.mark.parametrize(
    ("variables", "traced"),
    [
        ({}, False),
        ({"IHVP_OTLP_ENDPOINT": "http://here:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://here:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://here:4318/v1/traces"}, True),
        ({"IHVP_OTLP_ENDPOINT": "http://here:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_SERVICE_NAME": "mine"}, False),
    ],
)
def test_a_collector_turns_traces_on(variables: dict[str, str], traced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Settings().tracing is traced
