"""Those who look at jobs or their events at one moment share a round trip, and each gets their own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from ihvp.errors import IhvpError, InvalidInput, JobNotFound, StoreUnavailable
from ihvp.jobs.redis_store import AsyncRedisJobStore
from ihvp.jobs.states import JobState
from ihvp.settings import Settings
from tests.store.samples import job_request, new_id


def on_store(settings: Settings, work: Callable[[AsyncRedisJobStore], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        store = AsyncRedisJobStore.from_settings(settings)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


async def commands(store: AsyncRedisJobStore) -> int:
    """Scripts that the server has run."""
    stats = await store._executor._client.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


def test_a_crowd_takes_a_few_round_trips(valkey: Settings) -> None:
    async def crowd(store: AsyncRedisJobStore) -> None:
        ids = [(await store.create(new_id(), job_request())).id for _ in range(5)]
        await store.standing(ids[0])
        before = await commands(store)
        standings = await asyncio.gather(*(store.standing(ids[at % 5]) for at in range(500)))
        assert await commands(store) - before <= 4
        assert {standing.state for standing in standings} == {JobState.Queued}
        assert [s.place.queue_position for s in standings[:5] if s.place] == [0, 1, 2, 3, 4]

    on_store(valkey, crowd)


def test_tenants_of_one_look_see_their_own(valkey: Settings) -> None:
    async def tenants(store: AsyncRedisJobStore) -> None:
        ours, theirs = store.of("us"), store.of("them")
        job = (await ours.create(new_id(), job_request())).id
        seen = await asyncio.gather(ours.standing(job), theirs.standing(job), return_exceptions=True)
        assert seen[0].state is JobState.Queued  # type: ignore[union-attr]
        assert isinstance(seen[1], JobNotFound)

    on_store(valkey, tenants)


def test_who_leaves_takes_nothing_from_those_who_wait(valkey: Settings) -> None:
    async def leaving(store: AsyncRedisJobStore) -> None:
        job = (await store.create(new_id(), job_request())).id
        looks = [asyncio.create_task(store.standing(job)) for _ in range(3)]
        await asyncio.sleep(0)
        looks[0].cancel()
        answers = await asyncio.gather(*looks, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert all(answer.state is JobState.Queued for answer in answers[1:])  # type: ignore[union-attr]

    on_store(valkey, leaving)


def test_a_look_begins_after_the_poll_that_it_answers(valkey: Settings) -> None:
    async def in_turn(store: AsyncRedisJobStore) -> None:
        job = (await store.create(new_id(), job_request())).id

        async def poll() -> None:
            with suppress(IhvpError):
                while not stopped:
                    await store.standing(job)

        stopped = False
        pollers = [asyncio.create_task(poll()) for _ in range(20)]
        for _ in range(10):
            await asyncio.sleep(0.005)
            claimed = await store.claim("worker", 30.0)
            assert claimed is not None
            # What was written before the question is in the answer, whoever else is being answered just then.
            assert (await store.standing(job)).state is JobState.Running
            await store.release(job, claimed.attempt)
            assert (await store.standing(job)).state is JobState.Queued
        stopped = True
        await asyncio.gather(*pollers)

    on_store(valkey, in_turn)


def test_a_store_that_is_away_is_told_to_all(valkey: Settings) -> None:
    away = valkey.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})

    async def nobody_there(store: AsyncRedisJobStore) -> None:
        answers = await asyncio.gather(*(store.standing(new_id()) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)

    on_store(away, nobody_there)


@pytest.mark.parametrize("many", [250])
def test_more_than_one_look_holds_are_all_answered(valkey: Settings, many: int) -> None:
    async def crowd(store: AsyncRedisJobStore) -> None:
        answers = await asyncio.gather(*(store.standing(new_id()) for _ in range(many)), return_exceptions=True)
        assert all(isinstance(answer, JobNotFound) for answer in answers)

    on_store(valkey, crowd)


def test_all_who_follow_a_job_share_the_reading_of_its_events(valkey: Settings) -> None:
    async def followers(store: AsyncRedisJobStore) -> None:
        job = (await store.create(new_id(), job_request())).id
        other = (await store.create(new_id(), job_request())).id
        first = (await store.event_page(job)).events[0]
        before = await commands(store)
        pages = await asyncio.gather(
            *(store.event_page(job) for _ in range(500)),
            *(store.event_page(job, after=first.id) for _ in range(500)),
            store.event_page(other),
            store.event_page(new_id()),
            store.event_page(job, after="no position"),
            return_exceptions=True,
        )
        assert await commands(store) - before <= 6
        assert all(page.events == [first] for page in pages[:500])  # type: ignore[union-attr]
        assert all(page.events == [] for page in pages[500:1000])  # type: ignore[union-attr]
        assert pages[1000].events != [first]  # type: ignore[union-attr]
        assert isinstance(pages[1001], JobNotFound)
        assert isinstance(pages[1002], InvalidInput)

    on_store(valkey, followers)
