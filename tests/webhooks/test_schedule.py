"""A day and more of tries: the pauses, what lengthens them, and the whole schedule on a store whose clock is set."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from ihvp.jobs.memory_store import MemoryJobStore
from ihvp.settings import Settings
from ihvp.tenants import DEFAULT_TENANT
from ihvp.webhooks.record import DeliveryState
from ihvp.webhooks.schedule import next_pause, retry_after
from ihvp.webhooks.spec import WebhookSpec
from tests.store.samples import job_request, new_id
from tests.webhooks.receiver import receiving, status
from workers.webhooks.delivery import Poster

PAUSES = Settings().webhook_pauses_s


def test_the_schedule_spans_more_than_a_day() -> None:
    assert sum(PAUSES) >= 24 * 3600
    assert list(PAUSES) == sorted(PAUSES)


def test_pauses_vary_a_little_and_end() -> None:
    drawn = {next_pause((10.0, 100.0), 1) for _ in range(50)}
    assert len(drawn) > 10
    assert all(pause is not None and 10.0 <= pause <= 11.0 for pause in drawn)
    assert next_pause((10.0, 100.0), 3) is None


@pytest.mark.parametrize(("asked", "least"), [(5.0, 10.0), (40.0, 40.0), (1e9, 100.0)])
def test_a_receiver_may_lengthen_a_pause_within_bounds(asked: float, least: float) -> None:
    pause = next_pause((10.0, 100.0), 1, asked)
    assert pause is not None
    assert least <= pause <= least * 1.1


def test_retry_after_is_read_as_a_number_or_a_date() -> None:
    now = datetime(2026, 1, 5, 10, tzinfo=UTC)
    assert retry_after("120", now) == 120.0
    assert retry_after("Mon, 05 Jan 2026 10:01:00 GMT", now) == 60.0
    assert retry_after("Mon, 05 Jan 2026 09:00:00 GMT", now) == 0.0
    for nothing in (None, "", "soon", "-1", "1.5", "²", "Mon, 99 Jan 2026 10:01:00 GMT"):
        assert retry_after(nothing, now) is None


def test_a_receiver_that_is_down_for_a_day_is_tried_all_along_and_then_given_up() -> None:
    moment = datetime(2026, 1, 5, 10, tzinfo=UTC)
    store = MemoryJobStore(clock=lambda: moment)
    hooks = store.webhooks
    hooks.create_secret(DEFAULT_TENANT)
    began = moment

    async def try_once(url: str) -> bool:
        async with httpx.AsyncClient() as client:
            for sent in hooks.claim(lease_s=60.0, most=1, most_of_a_lane=1, most_tries=len(PAUSES) + 1):
                outcome = await Poster(client, 15.0, PAUSES).post(sent)
                return hooks.settle(sent.delivery.id, outcome.done, state=outcome.state, pause_s=outcome.pause_s)
            return False

    with receiving(*[status(503)] * 100) as receiver:
        request = job_request(webhook=WebhookSpec(url=receiver.url))
        store.request_cancel(store.create(new_id(), request).id)
        while True:
            assert asyncio.run(try_once(receiver.url))
            ((delivery,), _) = hooks.list(DEFAULT_TENANT, limit=1)
            if delivery.due_at is None:
                break
            moment = delivery.due_at - timedelta(seconds=1)
            assert not asyncio.run(try_once(receiver.url))  # not a moment early
            moment = delivery.due_at
        assert delivery.state is DeliveryState.Dead
        assert len(receiver.received) == len(PAUSES) + 1
        assert len({each.id for each in receiver.received}) == 1
        assert timedelta(hours=24) < moment - began < timedelta(hours=32)
