"""Empties the outbox: takes due deliveries, sends some at once, and notes how each went."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Final

import httpx
import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from ihvp.addresses import AddressRules, CheckedTransport
from ihvp.errors import IhvpError, StoreUnavailable
from ihvp.settings import Settings
from ihvp.starting.alive import Pulse
from ihvp.webhooks.record import DeliveryState, DeliveryTry, ToSend
from ihvp.webhooks.redis_store import AsyncRedisWebhookStore
from workers.webhooks.delivery import Outcome, Poster

__all__ = ["Sender"]

_log = structlog.get_logger(__name__)

_SWEEP_S: Final = 60.0
_PAUSE_S: Final = 0.5
_SHARE: Final = 4
"""A host has at most one in so many of the places: a slow one leaves the others to the rest."""


class Sender:
    """Sends from a thread and an event loop of its own. Several may run, here and elsewhere.

    It looks at the outbox when it is told to, when a place becomes free, and every so often by itself: a message that
    was lost costs a moment, and so does a try whose time has come.

    Args:
        settings: The service's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lease_s = 2 * settings.webhook_timeout_s + settings.store_timeout_s + 15.0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="webhooks", daemon=True)
        self._up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wakeup = asyncio.Event()
        self._stopping = False
        self._grace_s = 0.0
        self._under_way: dict[asyncio.Task[None], ToSend] = {}
        self._store_away = False

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()
        self._up.wait()

    def look(self) -> None:
        """Has it look at the outbox now; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wakeup.set)

    def close(self, grace_s: float) -> None:
        """Takes no more, waits for what is under way, and gives back what does not end in time."""
        self._grace_s, self._stopping = grace_s, True
        if self._thread.is_alive():
            self.look()
            self._thread.join(grace_s + 2 * self._settings.store_timeout_s)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        store = AsyncRedisWebhookStore.from_settings(self._settings)
        transport = CheckedTransport(AddressRules(self._settings.webhook_allowed_hosts))
        # Each step alone may take as long as the whole try, whose timeout is what counts.
        async with httpx.AsyncClient(
            transport=transport, follow_redirects=False, trust_env=False, timeout=self._settings.webhook_timeout_s
        ) as client:
            poster = Poster(client, self._settings.webhook_timeout_s, self._settings.webhook_pauses_s)
            self._up.set()
            next_sweep = 0.0
            pulse = Pulse(self._settings)
            while not self._stopping:
                pulse.beat()
                self._wakeup.clear()
                try:
                    await self._take(store, poster)
                    if time.monotonic() >= next_sweep:
                        next_sweep = time.monotonic() + _SWEEP_S
                        await self._sweep(store)
                    self._store_away = False
                except StoreUnavailable as error:
                    self._note_away(error)
                except Exception:  # a fault at one delivery must not end all others for good
                    _log.exception("outbox_not_read")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wakeup.wait(), self._settings.reconcile_interval_s)
            await self._finish()
        await store.close()

    async def _take(self, store: AsyncRedisWebhookStore, poster: Poster) -> None:
        concurrency = self._settings.webhook_concurrency
        free = concurrency - len(self._under_way)
        if free <= 0:
            return
        taken = await store.claim(
            lease_s=self._lease_s,
            most=free,
            most_of_a_lane=max(1, concurrency // _SHARE),
            most_tries=len(self._settings.webhook_pauses_s) + 1,
        )
        for sent in taken:
            task = asyncio.create_task(self._deliver(store, poster, sent))
            self._under_way[task] = sent
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)
        self._wakeup.set()

    async def _deliver(self, store: AsyncRedisWebhookStore, poster: Poster, sent: ToSend) -> None:
        try:
            outcome = await poster.post(sent)
        except asyncio.CancelledError:
            # This process ends: another one tries at once, and not only when the lease has run out.
            done = DeliveryTry(attempt=sent.delivery.attempt, at=sent.delivery.occurred_at, error="sender_stopped")
            outcome = Outcome(done, DeliveryState.Pending)
        await self._settle(store, sent, outcome)

    async def _settle(self, store: AsyncRedisWebhookStore, sent: ToSend, outcome: Outcome) -> None:
        said = {
            "delivery_id": sent.delivery.id,
            "job_id": sent.job.id,
            "attempt": outcome.done.attempt,
            "status": outcome.done.status,
            "error": outcome.done.error,
        }
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(StoreUnavailable),
                wait=wait_fixed(_PAUSE_S),
                stop=stop_after_delay(self._grace_s if self._stopping else self._lease_s / 2),
                reraise=True,
            ):
                with attempt:
                    kept = await store.settle(
                        sent.delivery.id, outcome.done, state=outcome.state, pause_s=outcome.pause_s
                    )
        except IhvpError as error:
            # It is sent again once the lease has run out: at least once, and the receiver knows its id.
            _log.warning("delivery_not_noted", **said, reason=str(error))
            return
        if not kept:
            _log.warning("delivery_was_taken_over", **said)
        elif outcome.state is DeliveryState.Delivered:
            _log.info("delivered", **said)
        else:
            _log.warning("delivery_failed", **said, state=outcome.state.value, next_try_s=round(outcome.pause_s, 1))

    async def _sweep(self, store: AsyncRedisWebhookStore) -> None:
        removed = 0
        while dropped := await store.drop(self._settings.webhook_retention_s):
            removed += len(dropped)
        if removed:
            _log.info("deliveries_removed", count=removed)

    async def _finish(self) -> None:
        tasks = list(self._under_way)
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self._grace_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=self._settings.store_timeout_s)

    def _note_away(self, error: StoreUnavailable) -> None:
        if not self._store_away:
            self._store_away = True
            _log.warning("store_away", reason=str(error))
