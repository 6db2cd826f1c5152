"""Products in float32 for a solve in float64, as long as true residuals in float64 show that they are enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from solvers.system import LinearSystem

__all__ = ["MixedPrecision"]

REDUCED: Final = 1e-5
"""By how much products in float32 reduce a float64 residual before it is recomputed."""
CORRECT_AFTER: Final = 50
"""Iterations after which it is recomputed anyhow; where that finds it no smaller than half, float64 goes on."""


class MixedPrecision:
    """H + λI as a solve multiplies by it: in float32 where the system has such products, until it leaves them.

    Args:
        system: What is solved.
        norms: ‖r‖ of each right-hand side at the start, in float64.

    Attributes:
        dtype: Of the products now.
    """

    def __init__(self, system: LinearSystem, norms: Sequence[float]) -> None:
        self.dtype = system.rhs.dtype if system.single is None else torch.float32
        self._system = system
        self._level = list(norms)
        self._corrected = [0] * len(self._level)

    def __call__(self, V: Tensor) -> Tensor:
        """The operator applied to each row of ``V`` ``[k, p]``, which is of the system's dtype, as the result is."""
        single = self._system.single
        return single(V) if single is not None and self.in_single else self._system.operator(V)

    @property
    def in_single(self) -> bool:
        """Whether products are in float32 and residuals in float64."""
        return self.dtype != self._system.rhs.dtype

    def leave_single(self) -> None:
        """Multiplies in the system's own dtype from now on."""
        self.dtype = self._system.rhs.dtype

    def is_due(self, i: int, norm: float, iteration: int) -> bool:
        """Whether a residual was brought as far as products in float32 may be trusted, or they have gone on for long.

        Args:
            i: The right-hand side.
            norm: ‖r‖ by the recurrence.
            iteration: The iteration.
        """
        reduced = norm <= REDUCED * self._level[i]
        return self.in_single and (reduced or iteration - self._corrected[i] >= CORRECT_AFTER)

    def corrected(self, i: int, norm: float, iteration: int) -> None:
        """Notes that a right-hand side goes on from its true residual, of norm ``norm``."""
        self._level[i], self._corrected[i] = norm, iteration

    def facts(self) -> dict[str, Any]:
        """All of it, JSON-ready, for a checkpoint."""
        return {"precision": str(self.dtype), "level": list(self._level), "corrected": list(self._corrected)}

    def restore(self, facts: Mapping[str, Any]) -> bool:
        """The inverse of :meth:`facts`; returns whether products are in the dtype that they were in."""
        if facts["precision"] == str(self._system.rhs.dtype):
            self.leave_single()
        self._level, self._corrected = list(facts["level"]), list(facts["corrected"])
        return bool(facts["precision"] == str(self.dtype))
