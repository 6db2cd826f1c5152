"""How long a job is predicted to take, at the price of a round trip a minute and model."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ihvp.costs.prediction import predict
from ihvp.errors import IhvpError

if TYPE_CHECKING:
    from ihvp.costs.observation import Known
    from ihvp.costs.redis_store import AsyncRedisCostStore
    from ihvp.costs.workload import Task, Workload
    from ihvp.methods import Curvature

__all__ = ["ExpectedCost"]

FRESH_S: Final = 60.0
MOST_KEPT: Final = 256


@dataclass
class _Kept:
    """What was read of a model, and what was worked out of it: a prediction costs more than all else of a submit."""

    at: float
    known: Known
    worked_out: dict[Hashable, float] = field(default_factory=dict)

    def seconds(self, workload: Workload, task: Task) -> float:
        key = (workload, task.method, json.dumps(task.options, sort_keys=True, default=str))
        if key not in self.worked_out:
            if len(self.worked_out) >= MOST_KEPT:
                self.worked_out.clear()
            self.worked_out[key] = predict(workload, task, self.known).seconds
        return self.worked_out[key]


class ExpectedCost:
    """Predicts from what solves have cost, read again when it is some time old.

    Args:
        store: Where workers tell what solves cost.
        clock: Monotonic seconds.
    """

    def __init__(self, store: AsyncRedisCostStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._kept: OrderedDict[tuple[str, Curvature], _Kept] = OrderedDict()

    async def read(self, workload: Workload) -> Known:
        """What tells about a model now.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        key = (workload.model, workload.curvature)
        known = await self._store.known(*key)
        self._kept[key] = _Kept(self._clock(), known)
        self._kept.move_to_end(key)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return known

    async def seconds(self, workload: Workload, task: Task) -> float | None:
        """Seconds of a solve on a worker that has the model loaded; None where what it rests on cannot be read."""
        key = (workload.model, workload.curvature)
        kept = self._kept.get(key)
        if kept is None or self._clock() - kept.at > FRESH_S:
            try:
                await self.read(workload)
            except IhvpError:
                return None  # a job is worth more than a guess of its time
            kept = self._kept[key]
        return kept.seconds(workload, task)
