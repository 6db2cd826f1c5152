"""The sender as the process that ``ihvp up`` runs: small, killed in the middle, without its messages or its broker."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import psutil
import pytest

from ihvp.settings import child_environment
from ihvp.webhooks.record import DeliveryState
from tests.waiting import eventually
from tests.webhooks.conftest import Outbox
from tests.webhooks.receiver import receiving, status
from workers.broker import make_celery, waiting_tokens, wake_sender

ROOT = Path(__file__).parents[2]
COMMAND = ["-m", "celery", "-A", "workers.webhooks.celery_app", "worker", "--without-gossip", "--without-mingle"]

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(box: Outbox, tmp_path: Path) -> Iterator[Start]:
    """Starts sender processes; none outlives the test."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(**changes: str) -> subprocess.Popen[bytes]:
        settings = box.settings
        own = {
            "redis_url": settings.redis_url,
            "namespace": settings.namespace,
            "data_dir": str(settings.data_dir),
            "webhook_allowed_hosts": json.dumps(settings.webhook_allowed_hosts),
            "reconcile_interval_s": "0.2",
            **changes,
        }
        with (tmp_path / "sender.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *COMMAND, "--pool", "solo", "-n", f"{settings.namespace}-{len(running)}@here"],
                cwd=ROOT,
                env=child_environment(**own),
                stdout=log,
                stderr=log,
            )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_it_is_one_small_process_without_torch_and_ends_when_told(box: Outbox, start: Start) -> None:
    process = start()
    with receiving() as receiver:
        box.ended(box.finish_job(receiver.url))
    seen = psutil.Process(process.pid)
    assert seen.children() == []
    assert not any("torch" in mapped.path for mapped in seen.memory_maps())
    assert seen.memory_info().rss < 160 * 1024 * 1024
    process.terminate()
    assert process.wait(15) == 0


def test_a_sender_that_is_killed_in_the_middle_loses_nothing(box: Outbox, start: Start) -> None:
    release = threading.Event()

    def wait(handler: BaseHTTPRequestHandler) -> None:
        release.wait(30)

    quick = {"webhook_timeout_s": "0.5", "store_timeout_s": "1"}  # a lease is some seconds longer than a try
    with receiving(wait) as receiver:
        job_id = box.finish_job(receiver.url)
        process = start(webhook_timeout_s="30")
        assert receiver.arrived.wait(20)
        process.kill()
        process.wait()
        assert box.of(job_id).sending
        assert box.of(job_id).state is DeliveryState.Pending
        # Its lease is long; here time is not waited for but moved, as the server would see it.
        box.hooks._executor._client.zadd(f"{{{box.settings.namespace}}}:webhooks:leases", {box.of(job_id).id: 1})
        start(**quick)
        done = box.ended(job_id)
        assert done.state is DeliveryState.Delivered
        assert [each.error for each in done.tries] == ["sender_lost", None]
        assert [each.id for each in receiver.received] == [done.id, done.id]
        release.set()


def test_messages_wake_it_and_none_of_them_is_needed(box: Outbox, start: Start) -> None:
    celery = make_celery(box.settings)
    queue = box.settings.webhook_queue_name
    for _ in range(40):
        wake_sender(celery, queue)
    # A sender that is away for long does not find a message for each event.
    assert waiting_tokens(celery, queue) == 16
    start(reconcile_interval_s="30")
    eventually(lambda: waiting_tokens(celery, queue) == 0)
    with receiving() as receiver:
        job_id = box.finish_job(receiver.url)
        wake_sender(celery, queue)
        assert box.ended(job_id).state is DeliveryState.Delivered


def test_a_broker_that_is_away_holds_no_delivery_up(box: Outbox, start: Start) -> None:
    start(broker_url="redis://127.0.0.1:1/1")
    with receiving(status(500)) as receiver:
        job_id = box.finish_job(receiver.url)
        assert box.tried(job_id).tries[0].status == 500


def test_two_senders_share_the_work_and_send_nothing_twice(box: Outbox, start: Start) -> None:
    with receiving() as receiver:
        jobs = [box.finish_job(receiver.url) for _ in range(30)]
        start(), start()
        for job_id in jobs:
            assert len(box.ended(job_id).tries) == 1
        assert len(receiver.received) == len({each.id for each in receiver.received}) == 30
