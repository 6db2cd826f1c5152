"""What the in-memory job store keeps in order to say when waiting jobs will be taken; see ``ihvp.jobs.outlook``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from ihvp.jobs import rules
from ihvp.jobs.counts import Counts
from ihvp.jobs.memory_record import Kept
from ihvp.jobs.outlook import REVISED, Eta, Forecast, Outlook, Pace, Place
from ihvp.jobs.submission import Priority

__all__ = ["MemoryOutlook"]


class MemoryOutlook:
    """The pace of the last blocks, and when those that run will end.

    Args:
        counts: Where attempts are counted, waits, and how far expectations were off.
        queue: The waiting jobs in their order.
        workers: How many live.
    """

    def __init__(self, counts: Counts, queue: Callable[[], Sequence[Kept]], workers: Callable[[], int]) -> None:
        self._counts = counts
        self._queue = queue
        self._workers = workers
        self._pace = Pace()
        self._moved = 0.0
        self._blocks: dict[str, tuple[float, float]] = {}

    def moved(self, now: datetime) -> None:
        """The queue has changed."""
        self._moved = now.timestamp()

    def accepted(self, kept: Kept, now: datetime) -> None:
        """A job came into the queue: what is expected of it now is compared with what comes of it."""
        self.moved(now)
        place = self._queue().index(kept)
        starts, ends, _ = self._forecast(now).at(place, kept.predicted_s)
        kept.expected = (starts, ends)

    def began(self, block: Sequence[Kept], now: datetime) -> None:
        """A block of jobs was claimed; the first one stands for it."""
        for kept in block:
            self._counts.add("attempts", kept.job.request.method.value)
            if kept.job.attempt == 1:
                waited = (now - kept.job.created_at).total_seconds()
                self._counts.observe("queue_wait_seconds", kept.job.request.priority.value, value=max(0.0, waited))
                self._count(kept, "start", now)
        if not block:
            return
        each = [kept.predicted_s for kept in block]
        known = [seconds for seconds in each if seconds is not None]
        predicted = sum(known) if len(known) == len(each) else None
        takes = len(block) * self._pace.mean_s if predicted is None else self._pace.seconds(predicted)
        block[0].block = (len(block), predicted)
        self._blocks[block[0].job.id] = (now.timestamp() + takes, now.timestamp())

    def reported(self, kept: Kept, left_s: float | None, now: datetime) -> None:
        """A running job says how long it will still take."""
        ends, began = self._blocks.get(kept.job.id, (0.0, 0.0))
        at = now.timestamp()
        if left_s is not None and kept.block and abs(ends - at - left_s) > max(1.0, REVISED * left_s):
            self._blocks[kept.job.id] = (at + left_s, began)

    def stopped(self, kept: Kept, now: datetime, *, succeeded: bool) -> None:
        """A job runs no longer."""
        _, began = self._blocks.pop(kept.job.id, (0.0, 0.0))
        if succeeded:
            if kept.block is not None:
                self._pace = self._pace.after(now.timestamp() - began, *kept.block)
            self._count(kept, "end", now)
        kept.block = None

    def place(self, job_id: str, now: datetime) -> Place | None:
        """Where a job stands; None where it does not wait."""
        for place, kept in enumerate(self._queue()):
            if kept.job.id == job_id:
                return Place(place, Eta.of(*self._forecast(now).at(place, kept.predicted_s)))
        return None

    def foresee(self, priority: Priority, predicted_s: float | None, now: datetime) -> Outlook:
        """What a job that came now would find."""
        ahead, at = replace(self._forecast(now), moved=now.timestamp()), now.timestamp()
        score = now - timedelta(seconds=rules.HEAD_START_S[priority])
        starts, ends, unknown = ahead.at(sum(kept.score < score for kept in self._queue()), predicted_s)
        left = [None if stamp is None else max(0.0, stamp - at) for stamp in (starts, ends)]
        return Outlook(len(ahead.queue), ahead.workers, left[0], left[1], unknown)

    def _forecast(self, now: datetime) -> Forecast:
        return Forecast(
            now=now.timestamp(),
            moved=self._moved,
            workers=self._workers(),
            ends=list(self._blocks.values()),
            pace=self._pace,
            queue=[kept.predicted_s for kept in self._queue()],
        )

    def _count(self, kept: Kept, which: str, now: datetime) -> None:
        expected = kept.expected[0 if which == "start" else 1]
        if expected is None:
            return
        created = kept.job.created_at.timestamp()
        actual, promised = max(0.0, now.timestamp() - created), max(0.0, expected - created)
        self._counts.observe("eta_log_error", which, value=math.log((1 + actual) / (1 + promised)))
