"""Metrics of the whole service: what a worker did is seen at the API."""

from __future__ import annotations

import time

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from examples.running_service import RunningService
from ihvp import Client
from tests.service.conftest import Oracle

pytestmark = pytest.mark.service


def scraped(url: str) -> dict[str, float]:
    """The sum over its labels of each sample."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def test_a_solve_shows_in_the_metrics(service: RunningService, client: Client, oracle: Oracle) -> None:
    before = scraped(service.url)
    client.solve(model=oracle.model.reference, rhs=np.eye(len(oracle.hessian))[:2], hessian_perturbation=0.1)
    until = time.monotonic() + 20
    # What a worker counts itself comes with its next sign of life, that of earlier jobs first.
    told = ("ihvp_hvps_total", "ihvp_model_cache_requests_total")
    while any((now := scraped(service.url)).get(name, 0.0) <= before.get(name, 0.0) for name in told):
        assert time.monotonic() < until, "the worker did not tell what it did"
        time.sleep(0.1)

    def grown(name: str) -> float:
        return now[name] - before.get(name, 0.0)

    assert grown("ihvp_jobs_submitted_total") == 1
    assert grown("ihvp_jobs_finished_total") == 1
    assert grown("ihvp_attempts_total") == 1
    assert grown("ihvp_right_hand_sides_total") == 2
    assert grown("ihvp_relative_residual_count") == 2
    assert grown("ihvp_solve_seconds_count") == 1
    assert grown("ihvp_queue_wait_seconds_count") == 1
    assert now["ihvp_worker_kept_models"] >= 1
    assert now["ihvp_leader"] == 1
    assert now["ihvp_reconciler_rounds_total"] > 0
    assert now["ihvp_worker_resident_bytes"] > 0
    assert abs(time.time() - now["ihvp_leader_seen_timestamp_seconds"]) < 60
