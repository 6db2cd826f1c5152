"""Messages of the API to the workers: ahead of the job, and again where the job was late."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis

from app import queue
from app.queue import WorkerWaker
from ihvp.messages import AHEAD_S
from ihvp.settings import Settings


@pytest.fixture
def waker(valkey: Settings) -> Iterator[WorkerWaker]:
    """One with a queue of its own."""
    waker = WorkerWaker(valkey.model_copy(update={"queue_name": f"{valkey.namespace}-solve"}))
    yield waker
    waker.close()


def sent(valkey: Settings, waker: WorkerWaker, takes_s: float = 0.0, error: Exception | None = None) -> int:
    """Messages for a job that takes so long to be stored, or is not."""

    async def make() -> None:
        async with waker.waking("job_1"):
            await asyncio.sleep(takes_s)
            if error is not None:
                raise error

    with suppress(type(error) if error else ()):
        asyncio.run(make())
    waker.check()  # in the same thread, after them
    return int(redis.Redis.from_url(valkey.resolved_broker_url).llen(f"{valkey.namespace}-solve"))


def test_a_job_that_is_stored_at_once_needs_one_message(
    valkey: Settings, waker: WorkerWaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "AHEAD_S", 60.0)  # however slow the machine is
    assert sent(valkey, waker) == 1


def test_one_that_is_stored_late_is_told_of_again(valkey: Settings, waker: WorkerWaker) -> None:
    assert sent(valkey, waker, 2 * AHEAD_S) == 2


def test_one_that_is_not_stored_has_had_its_message(valkey: Settings, waker: WorkerWaker) -> None:
    assert sent(valkey, waker, 2 * AHEAD_S, OSError("no room")) == 1
