"""What the in-memory job store knows of processes: workers that reported themselves, and who leads."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, cast

from ihvp.jobs import rules
from ihvp.jobs.counts import Counts, SignOfLife, WorkerSeen
from ihvp.jobs.record import JobError
from ihvp.jobs.store import Chain, Quarantined, WorkerInfo

__all__ = ["MemoryPresence", "atomic", "utc_now"]

SOUND: Final = timedelta(days=1)
F = TypeVar("F", bound=Callable[..., Any])


def atomic(method: F) -> F:
    """Has one thread at a time in the methods of a store."""

    @functools.wraps(method)
    def locked(self: MemoryPresence, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return cast(F, locked)


def utc_now() -> datetime:
    """This machine's time."""
    return datetime.now(UTC)


class MemoryPresence:
    """Workers and leaders of a store within one process.

    Args:
        clock: The store's time, with a time zone.
        quarantine_s: How long a quarantine lasts.
    """

    def __init__(self, clock: Callable[[], datetime], quarantine_s: float) -> None:
        self._clock = clock
        self._quarantine_time = timedelta(seconds=quarantine_s)
        self._sound: dict[str, datetime] = {}
        self._lock = threading.RLock()
        self._workers: dict[str, datetime] = {}
        self._quarantine: dict[str, tuple[datetime, str]] = {}
        self._proofs: dict[str, datetime] = {}
        self._canary: tuple[datetime, datetime | None] | None = None
        self._leaders: dict[str, tuple[str, datetime]] = {}
        self._led: dict[str, datetime] = {}
        self._signs: dict[str, SignOfLife] = {}
        self._counts = Counts()
        self._condemned: set[str] = set()

    @atomic
    def worker_alive(self, worker_id: str, sign: SignOfLife | None = None) -> None:
        """See ``JobStore.worker_alive``."""
        now = self._clock()
        if sign is not None:
            last = self._signs.get(worker_id)
            if last is None or last.mark != sign.mark:
                self._counts.merge(sign.counts)
            self._signs[worker_id] = sign
        self._workers[worker_id] = now
        oldest = now - timedelta(seconds=rules.FORGET_WORKER_S)
        self._workers = {worker: seen for worker, seen in self._workers.items() if seen >= oldest}
        self._signs = {worker: told for worker, told in self._signs.items() if worker in self._workers}

    @atomic
    def worker_gone(self, worker_id: str) -> None:
        """See ``JobStore.worker_gone``."""
        self._workers.pop(worker_id, None)
        self._proofs.pop(worker_id, None)
        self._signs.pop(worker_id, None)
        self._condemned.discard(worker_id)

    @atomic
    def workers(self) -> Sequence[WorkerInfo]:
        """See ``JobStore.workers``."""
        now = self._clock()
        recent_first = sorted(self._workers.items(), key=lambda entry: entry[1], reverse=True)
        return [WorkerInfo(worker, (now - seen).total_seconds()) for worker, seen in recent_first]

    @atomic
    def chain(self, alive_s: float, fresh_s: float, pause_s: float) -> Chain:
        """See ``JobStore.chain``."""
        now = self._clock()
        live = {worker for worker, seen in self._workers.items() if (now - seen).total_seconds() <= alive_s}
        if not live:
            self._canary = None
            return Chain(0, None, None, send=False)
        if live & self._at_work(now):
            return Chain(len(live), 0.0, None, send=False)
        latest = max((self._proofs[worker] for worker in live if worker in self._proofs), default=None)
        age = None if latest is None else (now - latest).total_seconds()
        if age is not None and age <= fresh_s:
            return Chain(len(live), age, None, send=False)
        asked, sent = self._canary or (now, None)
        if latest is not None and asked <= latest:
            asked, sent = now, None
        send = sent is None or (now - sent).total_seconds() > pause_s
        if send:
            self._canary = (asked, now)
        return Chain(len(live), age, (now - asked).total_seconds(), send)

    def _prove(self, owner: str) -> None:
        """Notes that an owner took a message."""
        self._proofs[owner] = self._clock()

    def _at_work(self, now: datetime) -> set[str]:
        """The owners that hold a live lease."""
        raise NotImplementedError

    @atomic
    def quarantined(self) -> Sequence[Quarantined]:
        """See ``JobStore.quarantined``."""
        now = self._clock()
        self._quarantine = {system: entry for system, entry in self._quarantine.items() if entry[0] > now}
        found = []
        for system, (until, job_id) in self._quarantine.items():
            method, _, digest = system.partition(" ")
            found.append(Quarantined(method, digest, job_id, (until - now).total_seconds()))
        return sorted(found, key=lambda each: (each.model_digest, each.method))

    @atomic
    def end_quarantine(self, model_digest: str) -> Sequence[Quarantined]:
        """See ``JobStore.end_quarantine``."""
        let_out = [each for each in self.quarantined() if each.model_digest == model_digest]
        for each in let_out:
            del self._quarantine[f"{each.method} {each.model_digest}"]
        return let_out

    def _begin_quarantine(self, system: str, job_id: str) -> None:
        """Keeps jobs from a system for a while, unless one has succeeded on it within a day."""
        now = self._clock()
        sound = system in self._sound and now - self._sound[system] < SOUND
        if self._quarantine_time and not sound:
            self._quarantine[system] = (now + self._quarantine_time, job_id)

    def _refusal_of(self, system: str, now: datetime) -> JobError | None:
        """Why no job of a system runs, if none does."""
        until = self._quarantine.get(system, (now, ""))[0]
        return rules.quarantine_error(math.ceil((until - now).total_seconds())) if until > now else None

    @atomic
    def acquire_leadership(self, name: str, holder: str, ttl_s: float) -> bool:
        """See ``JobStore.acquire_leadership``."""
        now = self._clock()
        leader, until = self._leaders.get(name, (holder, now))
        if leader != holder and until > now:
            return False
        self._leaders[name] = (holder, now + timedelta(seconds=ttl_s))
        self._led[name] = now
        if name == "reconciler":
            self._counts.add("reconciler_rounds")
        return True

    def _live_workers(self, alive_s: float) -> int:
        """Workers that were heard of within so many seconds."""
        return sum(worker.age_s <= alive_s for worker in self.workers())

    def _workers_seen(self) -> Sequence[WorkerSeen]:
        """The workers with what they told of themselves."""
        signs = self._signs
        return [
            WorkerSeen(
                worker.worker_id,
                worker.age_s,
                dict(signs[worker.worker_id].gauges) if worker.worker_id in signs else {},
            )
            for worker in self.workers()
        ]

    def _roles(self) -> dict[str, tuple[float, bool]]:
        """When each role was last held, and whether it is."""
        now = self._clock()
        return {role: (at.timestamp(), self._leaders[role][1] > now) for role, at in self._led.items()}
