"""A live line on the terminal, from the first thing that it shows until it is left."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.progress import Progress

__all__ = ["LiveBar"]


class LiveBar:
    """A context manager around a bar; ``show`` of a subclass starts it, so that nothing is drawn before a refusal.

    Args:
        bar: What is drawn.
    """

    def __init__(self, bar: Progress) -> None:
        self._bar = bar

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar.live.is_started:
            self._bar.stop()
