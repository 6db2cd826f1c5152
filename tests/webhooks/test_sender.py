"""The sender against a real HTTP server: what arrives, what is tried again, what is given up, what it must not do."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler

import pytest

from ihvp.tenants import DEFAULT_TENANT
from ihvp.webhooks.record import DeliveryState
from ihvp.webhooks.spec import WebhookEvent
from tests.waiting import eventually
from tests.webhooks.conftest import MakeSender, Outbox
from tests.webhooks.receiver import receiving, status


def test_a_delivery_arrives_once_and_verifies(box: Outbox, make_sender: MakeSender) -> None:
    make_sender()
    with receiving() as receiver:
        job_id = box.finish_job(f"{receiver.url}?tenant=7", WebhookEvent.Started, WebhookEvent.Finished)
        eventually(lambda: len(receiver.received) == 2)
        eventually(lambda: not box.hooks.overview().due and not box.hooks.overview().sending)
        by_type = {each.document["type"]: each for each in receiver.received}
        for each in receiver.received:
            each.verified(box.secret)
            assert each.path == "/hook?tenant=7"
            assert each.headers["content-type"] == "application/json"
            assert abs(int(each.headers["webhook-timestamp"]) - time.time()) < 30
        finished = by_type["job.finished"].document
        assert datetime.fromisoformat(finished["timestamp"]).tzinfo == UTC
        data = finished["data"]
        assert (data["id"], data["state"]) == (job_id, "succeeded")
        assert data["links"]["result"] == f"/v1/jobs/{job_id}/result"
        assert "x" not in data
        # Told as it was then, although the job has ended since.
        assert by_type["job.started"].document["data"]["state"] == "running"
        assert len({each.id for each in receiver.received}) == 2


def test_a_flaky_receiver_gets_the_same_message_again_until_it_takes_it(box: Outbox, make_sender: MakeSender) -> None:
    with receiving(status(500), status(429)) as receiver:
        job_id = box.finish_job(receiver.url)
        make_sender()
        done = box.ended(job_id)
        assert done.state is DeliveryState.Delivered
        assert [each.status for each in done.tries] == [500, 429, 204]
        assert all(each.seconds is not None for each in done.tries)
        assert {each.id for each in receiver.received} == {done.id}
        assert len({each.body for each in receiver.received}) == 1
        for each in receiver.received:
            each.verified(box.secret)


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_redirects_are_not_followed(box: Outbox, make_sender: MakeSender, code: int) -> None:
    with receiving() as elsewhere, receiving(*[status(code, Location=elsewhere.url)] * 4) as receiver:
        job_id = box.finish_job(receiver.url)
        make_sender()
        done = box.ended(job_id)
        assert done.state is DeliveryState.Dead
        assert {each.status for each in done.tries} == {code}
        assert elsewhere.received == []


def test_gone_stops_at_once(box: Outbox, make_sender: MakeSender) -> None:
    with receiving(status(410)) as receiver:
        job_id = box.finish_job(receiver.url)
        make_sender()
        done = box.ended(job_id)
        assert (done.state, [each.status for each in done.tries]) == (DeliveryState.Dead, [410])


def test_a_dead_delivery_is_listed_and_replayed(box: Outbox, make_sender: MakeSender) -> None:
    with receiving(*[status(503)] * 4) as receiver:
        job_id = box.finish_job(receiver.url)
        make_sender()
        dead = box.ended(job_id)
        assert (dead.state, len(dead.tries)) == (DeliveryState.Dead, 4)
        assert [d.id for d in box.hooks.list(DEFAULT_TENANT, limit=5, state=DeliveryState.Dead)[0]] == [dead.id]
        assert box.hooks.overview().counts == {"failed": 3, "dead": 1}
        box.hooks.replay(DEFAULT_TENANT, dead.id)
        done = box.ended(job_id)
        assert (done.state, len(done.tries)) == (DeliveryState.Delivered, 5)
        assert {each.id for each in receiver.received} == {dead.id}


def test_a_receiver_says_when_to_come_back(box: Outbox, make_sender: MakeSender) -> None:
    with receiving(status(503, Retry_After="30")) as receiver:
        job_id = box.finish_job(receiver.url)
        make_sender(webhook_pauses_s=(0.05, 60.0))
        waiting = box.tried(job_id)
        assert waiting.due_at is not None
        assert 20 < (waiting.due_at - datetime.now(UTC)).total_seconds() < 34


def test_a_try_ends_in_time_however_slowly_a_receiver_drips(box: Outbox, make_sender: MakeSender) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Endless: " + b"x" * 1000:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.02)

    with receiving(drip) as receiver:
        job_id = box.finish_job(receiver.url)
        make_sender(webhook_timeout_s=0.3)
        done = box.ended(job_id)
        first = done.tries[0]
        assert (first.error, first.status) == ("timeout", None)
        assert first.seconds is not None
        assert 0.3 <= first.seconds < 2.0
        assert done.state is DeliveryState.Delivered


def test_an_endless_answer_is_cut_off_and_counts_by_its_status(box: Outbox, make_sender: MakeSender) -> None:
    sent = []

    def pour(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(10_000):
            handler.wfile.write(b"x" * 65536)
            sent.append(65536)

    with receiving(pour) as receiver:
        job_id = box.finish_job(receiver.url)
        make_sender()
        assert box.ended(job_id).state is DeliveryState.Delivered
        assert sum(sent) < 64 * 1024 * 1024


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda handler: handler.wfile.write(b"SMTP ready\r\n\r\n"), "invalid_response"),
        (lambda handler: handler.connection.close(), "invalid_response"),
    ],
)
def test_what_is_no_http_is_a_failed_try(box: Outbox, make_sender: MakeSender, answer: object, error: str) -> None:
    with receiving(answer) as receiver:  # type: ignore[arg-type]
        job_id = box.finish_job(receiver.url)
        make_sender()
        done = box.ended(job_id)
        assert (done.tries[0].error, done.state) == (error, DeliveryState.Delivered)


def test_a_port_where_nothing_listens_and_tls_that_is_none_are_named(box: Outbox, make_sender: MakeSender) -> None:
    with receiving() as receiver:
        plain = receiver.url
        over_tls = box.finish_job(plain.replace("http://", "https://"))
        make_sender()
        assert box.tried(over_tls).tries[0].error == "tls_failed"
    nobody = box.finish_job(plain)
    assert box.tried(nobody).tries[0].error == "connection_failed"
    unknown = box.finish_job("https://nowhere.invalid/hook")
    assert box.tried(unknown).tries[0].error == "connection_failed"


def test_a_slow_host_does_not_hold_up_the_others(box: Outbox, make_sender: MakeSender) -> None:
    release = threading.Event()

    def wait(handler: BaseHTTPRequestHandler) -> None:
        release.wait(20)
        status(204)(handler)

    with receiving(*[wait] * 20) as slow, receiving() as quick:
        try:
            for _ in range(20):
                box.finish_job(slow.url)
            make_sender(webhook_concurrency=8)
            eventually(lambda: len(slow.received) == 2)
            job_id = box.finish_job(quick.url)
            assert box.ended(job_id).state is DeliveryState.Delivered
            assert len(slow.received) == 2  # its quarter of eight places
        finally:
            release.set()
        eventually(lambda: len(slow.received) == 20)


def test_while_a_secret_is_replaced_either_verifies(box: Outbox, make_sender: MakeSender) -> None:
    old = box.secret
    box.hooks.rotate_secret(DEFAULT_TENANT, 60.0)
    assert box.secret != old
    make_sender()
    with receiving() as receiver:
        box.ended(box.finish_job(receiver.url))
        (during,) = receiver.received
        assert len(during.headers["webhook-signature"].split()) == 2
        during.verified(old)
        during.verified(box.secret)
        box.hooks.rotate_secret(DEFAULT_TENANT, 0.0)
        box.ended(box.finish_job(receiver.url))
        after = receiver.received[1]
        assert len(after.headers["webhook-signature"].split()) == 1
        after.verified(box.secret)
        with pytest.raises(Exception, match="No matching signature"):
            after.verified(old)


def test_a_store_that_is_away_is_waited_for(box: Outbox, make_sender: MakeSender) -> None:
    sender = make_sender(redis_url="redis://127.0.0.1:1/0")
    time.sleep(0.2)
    assert sender._thread.is_alive()


def test_a_sender_that_is_told_to_end_gives_back_what_is_under_way(box: Outbox, make_sender: MakeSender) -> None:
    release = threading.Event()

    def wait(handler: BaseHTTPRequestHandler) -> None:
        release.wait(20)

    with receiving(wait) as receiver:
        job_id = box.finish_job(receiver.url)
        first = make_sender()
        receiver.arrived.wait(10)
        began = time.monotonic()
        first.close(0.1)
        assert time.monotonic() - began < 5
        back = box.tried(job_id)
        assert (back.state, back.tries[0].error) == (DeliveryState.Pending, "sender_stopped")
        make_sender()
        assert box.ended(job_id).state is DeliveryState.Delivered
        release.set()
