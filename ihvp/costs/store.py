"""Where observations are kept: a bounded memory of what solves have cost.

Nothing in it is a job's truth. It may lose observations, and count one twice when a broken link makes the client send
it again; predictions get a little better or worse by that, and that is all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from ihvp.costs.observation import Known, Observation
from ihvp.methods import Curvature, InversionMethod

__all__ = ["KEPT_HERE", "KEPT_MODELS", "KEPT_RECENT", "CostStore"]

KEPT_HERE: Final = 32
"""Observations of one model and curvature."""
KEPT_RECENT: Final = 128
"""Observations of any model."""
KEPT_MODELS: Final = 1000
"""Pairs of model and curvature that have any; the one not seen for longest is dropped first."""


class CostStore(Protocol):
    """Every method may raise ``StoreUnavailable``."""

    def record(self, observation: Observation, log_error: float | None) -> None:
        """Keeps an observation, and counts ln(actual / predicted) seconds under its method."""

    def known(self, model: str, curvature: Curvature) -> Known:
        """What tells about a model: its own observations, and the most recent of all."""

    def errors(self) -> Mapping[InversionMethod, Sequence[int]]:
        """For each method with any: how many errors fell into each bucket of ``ERROR_BOUNDS``."""
