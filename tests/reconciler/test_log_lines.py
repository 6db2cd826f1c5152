"""What the reconciler logs about a job leads to the request that submitted it, and to its trace."""

from __future__ import annotations

import time
from contextlib import closing

import structlog
from structlog.testing import capture_logs

from ihvp.jobs.outlook import Origin
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.settings import Settings
from tests.store.samples import job_request, new_id
from workers.reconciler import Reconciler

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ORIGIN = Origin(request_id="req-9", trace=f"00-{TRACE}-00f067aa0ba902b7-01")
NAMED = {"request_id": "req-9", "trace_id": TRACE}


def test_lost_and_expired_jobs_are_named_with_their_request(valkey: Settings) -> None:
    with closing(RedisJobStore.from_settings(valkey)) as store:
        lost, _ = store.submit(new_id(), job_request(), origin=ORIGIN)
        assert store.claim("silent", 0.0) is not None
        late, _ = store.submit(new_id(), job_request(deadline_s=0.001), origin=ORIGIN)
        time.sleep(0.01)
        structlog.reset_defaults()  # an application that ran before in this process may log errors alone
        with capture_logs() as lines:
            Reconciler.from_settings(valkey).round()
        # The next attempt goes on the same trace.
        again = store.claim("other", 60.0)
    told = {line["event"]: line for line in lines if "job_id" in line}
    assert told["worker_lost"].items() >= {"job_id": lost.id, "attempt": 1, "state": "queued", **NAMED}.items()
    assert told["job_expired"].items() >= {"job_id": late.id, "attempt": 0, **NAMED}.items()
    assert again is not None
    assert (again.attempt, again.request_id, again.trace) == (2, ORIGIN.request_id, ORIGIN.trace)
