"""What every place that holds referenced files has to be able to do."""

from __future__ import annotations

import time
from typing import BinaryIO, Protocol

from ihvp.errors import SourceTimeout
from ihvp.sources.pin import SourcePin

__all__ = ["Patience", "Source"]


class Source(Protocol):
    """A kind of place, such as the web or a bucket. Blocking: call it in a thread.

    Each method raises ``SourceNotAllowed`` where the operator has not opened the place, ``SourceNotFound``,
    ``SourceForbidden``, ``SourceUnavailable`` where it does not answer, and ``SourceTimeout`` where patience ends.
    """

    def is_folder(self, uri: str) -> bool:
        """Whether it names a folder of files rather than one file."""

    def files(self, uri: str) -> list[str]:
        """The files of a folder and those below it: their names relative to it, with ``/``, sorted."""

    def pin(self, uri: str) -> SourcePin:
        """A file's size, and what it is told from other versions by; nothing of its bytes is read."""

    def open(self, uri: str, pin: SourcePin) -> BinaryIO:
        """A file's bytes, seekable; what is not asked for is not fetched.

        Raises, here or while it is read: ``SourceChanged`` where it is no longer the one that was pinned,
        ``SourceTruncated`` where it ends before its size.
        """


class Patience:
    """How long somebody waits for a place: for one answer, and for all together.

    Args:
        answer_s: Longest wait for one answer.
        total_s: Longest time from now on.

    Attributes:
        answer_s: As given.
    """

    def __init__(self, answer_s: float, total_s: float) -> None:
        self.answer_s = answer_s
        self._total_s = total_s
        self._until = time.monotonic() + total_s

    def left(self) -> float:
        """Seconds to wait for the next answer.

        Raises:
            SourceTimeout: The time is over.
        """
        left = self._until - time.monotonic()
        if left <= 0:
            raise self.over()
        return min(left, self.answer_s)

    def over(self, given: str | None = None) -> SourceTimeout:
        """The error where it ends."""
        return SourceTimeout(
            "The place that holds a referenced file answers too slowly.",
            given=given,
            allowed=f"{self.answer_s:g} s for an answer, {self._total_s:g} s together",
            hint="Try again; an operator can raise IHVP_SOURCE_TIMEOUT_S, IHVP_SOURCE_RESOLVE_S, IHVP_SOURCE_FETCH_S.",
        )
