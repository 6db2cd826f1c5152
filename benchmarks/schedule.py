"""What a run has to do, how far it is, and where its time went."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

__all__ = ["Schedule", "Step"]


class Step(NamedTuple):
    """A part of a run: a cell of a row's table, a curve, or something that belongs to no row."""

    row: str
    name: str


class Schedule:
    """Tells before each step what has passed and what is left, by how long the steps took last time.

    Args:
        steps: In their order.
        earlier: Seconds of steps in an earlier run.
        tell: Where lines go.
        clock: Monotonic seconds.

    Attributes:
        seconds: Of the steps that are over, by row and name.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        earlier: Mapping[Step, float],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds: dict[str, dict[str, float]] = {}
        self._left = list(steps)
        self._count = len(steps)
        self._earlier = dict(earlier)
        self._tell = tell
        self._clock = clock
        self._began = clock()

    @property
    def elapsed(self) -> float:
        """Seconds since it was made."""
        return self._clock() - self._began

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        """Times one of the steps; a step that fails has not been done."""
        place = self._count - len(self._left) + 1
        self._tell(f"[{place}/{self._count}] {step.row}: {step.name}. {minutes(self.elapsed)} gone, {self.left()}.")
        began = self._clock()
        yield
        self.seconds.setdefault(step.row, {})[step.name] = self._clock() - began
        self._left.remove(step)

    def left(self) -> str:
        """What is left, in words."""
        known = sum(self._earlier.get(step, 0.0) for step in self._left)
        unknown = sum(step not in self._earlier for step in self._left)
        if unknown == len(self._left):
            return f"{unknown} steps left that never ran here"
        more = f" and {unknown} steps that never ran here" if unknown else ""
        return f"about {minutes(known)} left{more}"


def minutes(seconds: float) -> str:
    """``m:ss``."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"
