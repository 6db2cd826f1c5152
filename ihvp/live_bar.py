"""A live line on the terminal, for as long as it is entered."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.progress import Progress

__all__ = ["LiveBar"]


class LiveBar:
    """A context manager around a bar.

    Args:
        bar: What is drawn.
    """

    def __init__(self, bar: Progress) -> None:
        self._bar = bar

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
