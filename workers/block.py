"""The right-hand sides of several jobs as one block, and each job's part of what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.methods import TerminationStatus
from solvers import InverseHvpResult
from solvers.progress import IterationReport
from workers.ending import Ending
from workers.member import Member, end_together
from workers.progress import ProgressWriter, Trail
from workers.stop import StopReason
from workers.tally import Tally

__all__ = ["Block"]

PER_RHS: Final = frozenset({"certificate", "niter", "optimal", "gamma", "repeat_std"})
"""What of a solver's info has one entry a right-hand side."""

_WAITED: Final = 0.02
"""Share of an iteration's time that the store's answer is waited for, where it was a long one."""


class Block:
    """Jobs that are solved together; mostly it is one.

    It is the solver's callback: each job's progress is reported as its own, and a job that is cancelled or lost
    ends at once, while its rows are solved along. The solve stops where a job meets its deadline, the worker
    shuts down, or nobody is left. An iteration costs a look at the clock and one at each job's flag, unless progress
    is due.

    Args:
        members: The jobs, their right-hand sides read.
        progress: Takes what they report to the store.
        tally: Where products are counted, as they are done.
        clock: Monotonic seconds.

    Attributes:
        members: As given.
        stopped: Whether the solver was told to stop.
    """

    def __init__(
        self,
        members: Sequence[Member],
        progress: ProgressWriter,
        tally: Tally | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.members = members
        self._progress = progress
        self._tally = tally
        self._products = 0.0
        self.stopped = False
        self._rows: list[slice] = []
        start = 0
        for member in members:
            self._rows.append(slice(start, start + member.rows))
            start += member.rows
        self._count = start
        self._trail = Trail(start, clock)
        self._interval_s = min((member.progress.interval_s for member in members), default=0.0)
        self._shown_at: float | None = None
        self._before = clock()
        self._put_off: IterationReport | None = None

    @property
    def rhs(self) -> Tensor:
        """``[k, p]`` with those of one job below those of another; a single job's as they are."""
        given = [member.b for member in self.members if member.b is not None]
        return given[0] if len(given) == 1 else torch.cat([b.reshape(-1, b.shape[-1]) for b in given])

    def running(self) -> list[tuple[Member, slice]]:
        """The jobs that have not ended, each with its rows."""
        pairs = zip(self.members, self._rows, strict=True)
        return [(member, rows) for member, rows in pairs if member.ending is None]

    def __call__(self, report: IterationReport) -> TerminationStatus | None:
        """Takes one iteration of the solver; returns why to stop, or None to go on."""
        now = self._trail.add(report)
        # The very first one is always told, so that a watcher sees that the solve has begun.
        if self._shown_at is None or now - self._shown_at >= self._interval_s:
            self.count_products(report.hvps)
            self._show(now)
        self._before = now
        waiting = False
        stop: TerminationStatus | None = None
        ending: list[tuple[Member, Ending]] = []
        for member in self.members:
            if member.ending is not None:
                continue
            match member.stop.reason:
                case None:
                    waiting = True
                case StopReason.Deadline:
                    stop = TerminationStatus.Deadline
                case StopReason.Shutdown if self._is_put_off(member, report):
                    waiting = True
                case StopReason.Shutdown:
                    stop = stop or TerminationStatus.Cancelled
                case reason:
                    ending.append((member, Ending.stopped(reason)))
        if ending:
            end_together(ending)
        if stop is None and not waiting:
            stop = TerminationStatus.Cancelled
        self.stopped = self.stopped or stop is not None
        return stop

    def close(self, products: float) -> None:
        """The solve has ended, having done so many products."""
        self.count_products(products)
        if self._trail.last is not None:
            self.members[0].trace.iterated(self._trail.last, last=True)

    def count_products(self, done: float) -> None:
        """Counts products, given how many this solve has done by now."""
        if self._tally is not None and done > self._products:
            method = self.members[0].job.request.method.value
            self._tally.add("hvps", method, by=done - self._products)
            self._products = done

    def _is_put_off(self, member: Member, report: IterationReport) -> bool:
        """Whether a shutdown waits for one more iteration.

        Where it came after the solver had asked whether its state is to be saved, but before this iteration was
        reported, the state is saved with the next one.
        """
        again = self._put_off is not None and self._put_off is not report
        if again or member.checkpoints is None or not member.checkpoints.due():
            return False
        self._put_off = report
        return True

    def _show(self, now: float) -> None:
        """Has the iteration written for each job."""
        first = self._shown_at is None
        self._shown_at = now
        last = self._trail.last
        if last is not None:
            self.members[0].trace.iterated(last)
        with self._progress.together():
            for member, rows in self.running():
                if first:
                    member.progress.follow(self._trail, rows)
                member.progress.show(at_once=not first)
        took = now - self._before
        if took >= self._interval_s:
            # The answer may be a wish to stop: after a long iteration it is cheaper to wait for it than to do another.
            self._progress.wait(_WAITED * took)

    def parts(self, result: InverseHvpResult[Tensor]) -> list[InverseHvpResult[Tensor]]:
        """What each job gets of a result, in the order of the members."""
        if len(self.members) == 1:
            return [result]
        together = {"jobs": len(self.members), "rhs": self._count}
        parts = []
        for member, rows in zip(self.members, self._rows, strict=True):
            own: dict[str, Any] = {name: result.info[name][rows] for name in PER_RHS & result.info.keys()}
            x = result.x[rows].reshape(member.job.request.rhs.shape)
            parts.append(InverseHvpResult(x, {**result.info, **own, "coalesced": together}))
        return parts
