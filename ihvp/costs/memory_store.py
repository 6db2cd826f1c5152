"""The store of observations in plain Python: the readable model of the semantics, and a store for tests."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence

from ihvp.costs.observation import ERROR_BOUNDS, Known, Observation, error_bucket
from ihvp.costs.store import KEPT_HERE, KEPT_MODELS, KEPT_RECENT
from ihvp.methods import Curvature, InversionMethod

__all__ = ["MemoryCostStore"]


class MemoryCostStore:
    """``CostStore`` within one process; nothing outlives it. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_model: OrderedDict[tuple[str, Curvature], deque[Observation]] = OrderedDict()
        self._recent: deque[Observation] = deque(maxlen=KEPT_RECENT)
        self._errors: dict[InversionMethod, list[int]] = {}

    def record(self, observation: Observation, log_error: float | None) -> None:
        """See ``CostStore.record``."""
        key = (observation.model, observation.curvature)
        with self._lock:
            self._by_model.setdefault(key, deque(maxlen=KEPT_HERE)).appendleft(observation)
            self._by_model.move_to_end(key)
            if len(self._by_model) > KEPT_MODELS:
                self._by_model.popitem(last=False)
            self._recent.appendleft(observation)
            if log_error is not None:
                counts = self._errors.setdefault(observation.method, [0] * len(ERROR_BOUNDS))
                counts[error_bucket(log_error)] += 1

    def known(self, model: str, curvature: Curvature) -> Known:
        """See ``CostStore.known``."""
        with self._lock:
            return Known(tuple(self._by_model.get((model, curvature), ())), tuple(self._recent))

    def errors(self) -> Mapping[InversionMethod, Sequence[int]]:
        """See ``CostStore.errors``."""
        with self._lock:
            return {method: tuple(counts) for method, counts in self._errors.items()}
