"""Reports of a running solve, and the way to stop it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ihvp.errors import InvalidOption
from ihvp.methods import TerminationStatus

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Callback", "IterationReport", "Monitor"]


@dataclass(frozen=True, slots=True)
class IterationReport:
    """Where a solve stands after an iteration.

    Attributes:
        method: Name of the method.
        iteration: Iterations done; for ``direct``, rows of the Hessian computed.
        max_iterations: Most there can be.
        relative_residual: ‖(H+λI)x − b‖ / ‖b‖ of each right-hand side as the method tracks it (a recurrence,
            or an estimate from a minibatch); None where it is not finite. The certificate recomputes it.
        hvps: Hessian-vector products done in this solve, in passes over all points.
    """

    method: str
    iteration: int
    max_iterations: int
    relative_residual: list[float | None]
    hvps: float


Callback = Callable[[IterationReport], TerminationStatus | None]
"""Called once an iteration. ``TerminationStatus.Cancelled`` or ``Deadline`` stops the solve; None goes on."""

STOPS = (TerminationStatus.Cancelled, TerminationStatus.Deadline)


class Monitor:
    """Tells a caller's callback and, if asked to, the terminal about each iteration.

    Args:
        method: Name of the method.
        callback: Called once an iteration, or None.
        progress: Whether to draw a progress bar on stderr.
    """

    def __init__(self, method: str, callback: Callback | None, progress: bool) -> None:
        self._method = method
        self._callback = callback
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if progress:
            # Imported here: a service that never draws must not pay for it.
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)

    def step(
        self, iteration: int, max_iterations: int, relative_residual: Sequence[float], hvps: float
    ) -> TerminationStatus | None:
        """Reports an iteration; returns why to stop, or None.

        Raises:
            InvalidOption: The callback returned something else than None, ``Cancelled`` or ``Deadline``.
        """
        if self._bar is not None:
            self._draw(self._bar, iteration, max_iterations, relative_residual)
        if self._callback is None:
            return None
        residuals = [r if math.isfinite(r) else None for r in relative_residual]
        try:
            verdict = self._callback(IterationReport(self._method, iteration, max_iterations, residuals, hvps))
        except BaseException:
            self.close()
            raise
        if verdict is not None and verdict not in STOPS:
            raise InvalidOption(
                "A callback returns why to stop, or None.",
                given=repr(verdict),
                allowed=", ".join(f"TerminationStatus.{s.name}" for s in STOPS) + ", None",
            )
        return verdict

    def close(self) -> None:
        """Takes the progress bar away."""
        if self._bar is not None:
            self._bar.stop()

    def _draw(self, bar: Progress, iteration: int, most: int, residuals: Sequence[float]) -> None:
        worst = max(residuals, default=0.0)
        text = f"{self._method}: relative residual {worst:.2e}"
        if self._task is None:
            bar.start()
            self._task = bar.add_task(text, total=most)
        bar.update(self._task, completed=iteration, description=text)
