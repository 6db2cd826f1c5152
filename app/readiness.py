"""Whether a job would be taken and finished: asked of each link of the chain, and kept in memory for a moment."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from app.queue import CANARY
from ihvp.errors import IhvpError
from ihvp.jobs.rules import canary_pause
from ihvp.wire import Readiness

if TYPE_CHECKING:
    from app.queue import WorkerWaker
    from ihvp.jobs.redis_store import AsyncRedisJobStore
    from ihvp.jobs.store import Chain
    from ihvp.settings import Settings

__all__ = ["ReadinessCheck"]

KEPT_READY_S: Final = 1.0
# Who starts the service waits for the moment in which it is ready.
KEPT_NOT_READY_S: Final = 0.1
# An idle worker takes a message within milliseconds.
FIRST_ANSWER_S: Final = 0.3
FIRST_LOOK_S: Final = 0.02


class ReadinessCheck:
    """Asks, at most once at a time, and keeps the answer for a second; one that says no for a tenth.

    Args:
        settings: How old what is known of workers may be.
        jobs: The job store.
        waker: Knows the broker, and sends the message that shows whether workers hear.
    """

    def __init__(self, settings: Settings, jobs: AsyncRedisJobStore, waker: WorkerWaker) -> None:
        self._settings = settings
        self._jobs = jobs
        self._waker = waker
        self._asking = asyncio.Lock()
        self._known: Readiness | None = None
        self._known_at = 0.0

    async def __call__(self) -> Readiness:
        """Whether the service is ready, and which link is broken where it is not."""
        async with self._asking:
            known = self._known
            if known is None or time.monotonic() - self._known_at > (
                KEPT_READY_S if known.ready else KEPT_NOT_READY_S
            ):
                self._known = known = await self._ask()
                self._known_at = time.monotonic()
            return known

    async def _ask(self) -> Readiness:
        (store, chain), broker = await asyncio.gather(self._store(), self._broker())
        workers, link = 0, "not known"
        if chain is not None:
            workers, link = chain.workers, self._link(chain)
            if chain.send:
                self._waker.wake(CANARY)
                if chain.proof_age_s is None:
                    link = await self._first_answer(link)
        ready = store == "ok" and broker == "ok" and link == "ok"
        return Readiness(ready=ready, store=store, broker=broker, workers=workers, chain=link)

    async def _first_answer(self, link: str) -> str:
        """Waits a moment for it: whoever starts the service waits for this."""
        until = time.monotonic() + FIRST_ANSWER_S
        while link != "ok" and time.monotonic() < until:
            await asyncio.sleep(FIRST_LOOK_S)
            _, chain = await self._store()
            link = link if chain is None else self._link(chain)
        return link

    async def _store(self) -> tuple[str, Chain | None]:
        fresh_s = self._settings.canary_s
        try:
            await self._jobs.ping()
            return "ok", await self._jobs.chain(self._settings.worker_alive_s, fresh_s, canary_pause(fresh_s))
        except IhvpError as error:
            return error.message, None

    async def _broker(self) -> str:
        try:
            return await anyio.to_thread.run_sync(self._waker.check)
        except TimeoutError:
            return "does not answer"

    def _link(self, chain: Chain) -> str:
        if chain.workers == 0:
            return "no worker lives"
        if chain.asked_age_s is None:
            return "ok"
        if chain.proof_age_s is None and chain.asked_age_s <= self._settings.worker_alive_s:
            return "not known yet: a message is on its way to a worker that has taken none so far"
        if chain.asked_age_s <= self._settings.worker_alive_s:
            return "ok"
        ever = "none ever did" if chain.proof_age_s is None else f"the last one {chain.proof_age_s:.0f} s ago"
        return (
            f"workers live and take no messages: one has waited for {chain.asked_age_s:.0f} s, {ever}. "
            "Either they hear another broker or queue than this API, or Celery's consumer is deaf: restart them."
        )
