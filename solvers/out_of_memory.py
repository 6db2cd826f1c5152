"""Running out of memory, on whatever device: how it is recognised, and what is said where nothing smaller is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import torch

from ihvp.errors import OutOfMemory

if TYPE_CHECKING:
    from solvers.batch import Batch

__all__ = ["Portions", "free_cached", "is_out_of_memory", "one_point_at_a_time", "until_it_fits"]

T = TypeVar("T")

SAID: Final = ("can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
"""What the processor's allocators on Linux and Windows, CUDA's libraries, and CUDA where memory is pinned say, in
errors that have no class of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)


def _nothing_smaller(error: BaseException) -> OutOfMemory:
    """What to raise, from ``error``, where a single point at a time does not fit."""
    return OutOfMemory(
        "Not even one training point at a time fits the memory that is free.",
        given=(str(error).splitlines() or [""])[0][:200] or None,
        hint="Solve for fewer right-hand sides at a time, choose fewer parameters, or use a device with more memory.",
    )


@contextmanager
def one_point_at_a_time() -> Iterator[None]:
    """Around work on a single point, which cannot be halved.

    Raises:
        OutOfMemory: It does not fit.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise _nothing_smaller(error) from error
        raise


def until_it_fits(attempt: Callable[[], T], *, is_smallest: Callable[[], bool], halve: Callable[[], None]) -> T:
    """What an attempt makes; where memory runs out, what another one makes with half of the points, and so on.

    Args:
        attempt: Does all that takes memory.
        is_smallest: Whether the attempt that has failed took as little as any can.
        halve: Makes the next attempt take less.

    Raises:
        OutOfMemory: Not even the smallest attempt fits.
    """
    while True:
        try:
            return attempt()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if is_smallest():
                raise _nothing_smaller(error) from error
        # Outside the handler, whose traceback holds on to the memory.
        halve()


class Portions:
    """How many points go at a time: as many as are allowed, and half of them wherever memory runs out.

    Args:
        most: As many.
        device: Where the memory is.

    Attributes:
        most: How many are allowed now; may be changed.
        shortage: Where memory ran out, how many points went at a time before and after, in words.
    """

    def __init__(self, most: int, device: torch.device) -> None:
        self.most = most
        self.shortage: list[str] = []
        self._device = device

    def each(self, batch: Batch, work: Callable[[Batch], T]) -> Iterator[T]:
        """What becomes of a batch, piece by piece.

        Args:
            batch: The points, in the order in which they go.
            work: Does all that takes memory with a piece; called again with half of it where it runs out.

        Raises:
            OutOfMemory: Not even one point fits.
        """
        start, end = 0, batch.points

        def points() -> int:
            return min(self.most, end - start)

        def attempt() -> T:
            nonlocal start
            piece = batch.rows(start, start + points())
            made = work(piece)
            start += piece.points
            return made

        while start < end:
            # Not kept here meanwhile: what is made of a piece may be large.
            yield until_it_fits(attempt, is_smallest=lambda: points() == 1, halve=lambda: self.halve(points()))

    def halve(self, points: int) -> None:
        """Allows half of so many points, and notes it."""
        self.most = max(1, points // 2)
        self.shortage.append(f"{points} points at a time, then {self.most}")
        free_cached(self._device)


def free_cached(device: torch.device) -> None:
    """Gives back what torch keeps of a device's memory for reuse: it may lie in pieces of the wrong size."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
