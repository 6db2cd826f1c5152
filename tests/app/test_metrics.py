"""What Prometheus reads: each metric documented, bounded in its labels, and true of the whole service."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import Metrics
from ihvp.errors import IhvpError
from ihvp.jobs.counts import SignOfLife
from ihvp.jobs.states import JobState
from tests.app.conftest import MakeService
from tests.app.driver import Service, problem

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


def scraped(service: Service) -> dict[str, float]:
    """Samples by name and labels, as the text writes them."""
    text = service.http.get("/metrics").text
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def shown(service: Service) -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels of each metric that a scrape shows."""
    found = {}
    for family in text_string_to_metric_families(service.http.get("/metrics").text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, frozenset(labels))
    return found


@pytest.fixture
def used(make_service: MakeService) -> Service:
    """A service on which something of every kind has happened."""
    service = make_service()
    service.finished()
    service.http.get("/v1/jobs/nothing")
    lost = service.claim(service.submit()["id"])
    service.jobs.reclaim_owner("test-worker", 3)
    service.jobs.release(lost.id, service.claim(lost.id).attempt)
    service.jobs.acquire_leadership("reconciler", "r", 60.0)
    names = [
        "resident_bytes", "kept_models", "kept_bytes",
        "gpu_memory_used_bytes", "gpu_memory_total_bytes", "gpu_memory_reserved_bytes",
    ]  # fmt: skip
    counts = {
        "hvps|cg": 3.5,
        "model_cache_requests|hit": 1,
        "factor_store_requests|miss": 1,
        "model_load_seconds|2": 1,
        "model_load_seconds|sum": 0.07,
        "relative_residual|cg|4": 1,
        "solve_seconds|cg|4": 1,
        "eta_log_error|start|5": 1,
    }
    service.jobs.worker_alive("host/w1", SignOfLife("m", counts, dict.fromkeys(names, 7.0)))
    return service


def test_the_table_of_metrics_is_complete_and_true(used: Service) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\| .+ \|$", DOCUMENT, re.MULTILINE)
    documented = {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    found = shown(used)
    # Nothing was predicted here, so that its labels do not show; tests/app/test_predictions.py has them.
    assert found.pop("ihvp_prediction_log_error")[0] == documented.pop("ihvp_prediction_log_error")[0]
    assert found == documented


def test_the_alerts_and_questions_name_metrics_that_exist(used: Service) -> None:
    names = set(re.findall(r"ihvp_[a-z_]+", DOCUMENT.partition("## Questions")[2]))
    known = {name for metric in shown(used) for name in (metric, f"{metric}_bucket")}
    assert names
    assert names <= known


def test_the_alerts_are_rules_that_prometheus_reads() -> None:
    """Their form; Prometheus itself is not here to read them."""
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)]
    (rules,) = [group["rules"] for block in blocks for group in block.get("groups", [])]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 8
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "annotations", "labels"}
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert re.fullmatch(r"[0-9]+[smh]", rule.get("for", "1m"))


def test_a_scrape_tells_what_became_of_the_jobs(used: Service) -> None:
    seen = scraped(used)
    assert seen['ihvp_jobs_submitted_total{method="cg"}'] == 2
    assert seen['ihvp_jobs_finished_total{method="cg",state="succeeded"}'] == 1
    assert seen['ihvp_attempts_total{method="cg"}'] == 3
    assert seen['ihvp_lease_losses_total{cause="worker_died",outcome="queued"}'] == 1
    assert seen["ihvp_jobs_released_total"] == 1
    assert seen['ihvp_jobs{state="queued"}'] == 1
    assert seen['ihvp_jobs{state="succeeded"}'] == 1
    assert seen["ihvp_queue_length"] == 1
    assert 0 < seen["ihvp_queue_oldest_seconds"] < 60
    assert seen['ihvp_right_hand_sides_total{method="cg",status="converged"}'] == 1
    assert seen['ihvp_queue_wait_seconds_count{priority="normal"}'] == 2
    assert seen['ihvp_queue_wait_seconds_bucket{le="+Inf",priority="normal"}'] == 2
    assert seen['ihvp_hvps_total{method="cg"}'] == 3.5
    assert seen['ihvp_worker_gpu_memory_used_bytes{worker="host/w1"}'] == 7
    assert seen['ihvp_leader{role="reconciler"}'] == 1


def test_refusals_are_counted_by_their_code(make_service: MakeService) -> None:
    service = make_service(max_queue=1)
    service.submit()
    problem(service.http.post("/v1/jobs", json=service.submission()), 429, "queue_full")
    problem(
        service.http.post("/v1/jobs", content=b"{", headers={"Content-Type": "application/json"}),
        400,
        "malformed_json",
    )
    problem(service.http.get("/v1/jobs/job_01JZZZZZZZZZZZZZZZZZZZZZZZ"), 404, "job_not_found")
    seen = scraped(service)
    assert seen['ihvp_http_problems_total{code="queue_full",status="429"}'] == 1
    assert seen['ihvp_http_problems_total{code="malformed_json",status="400"}'] == 1
    assert seen['ihvp_http_problems_total{code="job_not_found",status="404"}'] == 1
    # A good answer after a bad one on the same connection is no problem.
    service.http.get("/v1/jobs").raise_for_status()
    assert scraped(service)['ihvp_http_problems_total{code="job_not_found",status="404"}'] == 1


def test_a_scrape_asks_the_store_three_times_however_much_it_keeps(used: Service) -> None:
    with redis.Redis.from_url(used.settings.redis_url) as server:

        def calls() -> int:
            stats = server.info("commandstats")
            return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "eval"))

        used.http.get("/metrics")
        before = calls()
        used.http.get("/metrics")
        few = calls() - before
        for _ in range(20):
            used.submit()
        before = calls()
        used.http.get("/metrics")
        assert few == calls() - before == 3


def test_every_api_process_shows_the_same_counts(used: Service, make_service: MakeService) -> None:
    other = make_service(namespace=used.settings.namespace)
    assert scraped(other)['ihvp_jobs_submitted_total{method="cg"}'] == 2


def test_a_store_that_does_not_answer_is_unknown_not_empty() -> None:
    text = Metrics().render(None, live_workers=0, prediction_errors={}, outbox=None).decode()
    assert "ihvp_store_up 0.0" in text
    assert "ihvp_queue_length NaN" in text
    assert "ihvp_workers NaN" in text
    assert 'ihvp_jobs{state="queued"}' not in text


def test_states_and_codes_are_all_that_callers_can_choose_from(used: Service) -> None:
    for path in ("/v1/jobs/job_x", "/nowhere/at/all", "/v1/models/none"):
        used.http.get(path)
    used.http.request("BREW", "/v1/jobs")
    codes = {kind.code for kind in _all_errors()}
    for family in text_string_to_metric_families(used.http.get("/metrics").text):
        for sample in family.samples:
            assert sample.labels.get("code", "not_found") in codes
            assert sample.labels.get("state", "queued") in {state.value for state in JobState}
            assert "nowhere" not in str(sample.labels)
            assert "BREW" not in str(sample.labels)


def _all_errors(kind: type[IhvpError] = IhvpError) -> list[type[IhvpError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in _all_errors(below))]
