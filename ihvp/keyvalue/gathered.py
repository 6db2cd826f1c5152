"""Reads, gathered: whoever asks while one round trip is under way shares the next one.

A poll is one small read, and most of what it costs is the round trip, not the reading. Under load hundreds of callers
wait at a time; a read that serves all of them costs little more than one that serves one. A read always starts after
the questions that it answers have come in, so nobody is told of an older state than by a read of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

from ihvp.errors import IhvpError

__all__ = ["Gathered"]

QuestionT = TypeVar("QuestionT", bound=Hashable)
AnswerT = TypeVar("AnswerT")

UNDER_WAY: Final = 2
"""Reads under way at a time: while the server works on one, the answers to another are looked at."""


class Gathered(Generic[QuestionT, AnswerT]):
    """Answers questions of one kind, several with one read; belongs to one event loop.

    Args:
        read: Answers several questions with one round trip, each by its answer or by what is wrong with it.
        at_once: Most questions of one read: the server does nothing else meanwhile.
    """

    def __init__(
        self, read: Callable[[Sequence[QuestionT]], Awaitable[Sequence[AnswerT | IhvpError]]], at_once: int
    ) -> None:
        self._read = read
        self._at_once = at_once
        self._asked: dict[QuestionT, asyncio.Future[AnswerT]] = {}
        self._reads: set[asyncio.Task[None]] = set()

    async def answer(self, question: QuestionT) -> AnswerT:
        """The answer as of now; the same object for all who have asked the same.

        Raises:
            IhvpError: What is wrong with the question, or with the store.
        """
        answer = self._asked.get(question)
        if answer is None:
            answer = self._asked[question] = asyncio.get_running_loop().create_future()
            self._go_on()
        # Several may wait for one answer: who leaves does not take it from the others.
        return await asyncio.shield(answer)

    def _go_on(self) -> None:
        if self._asked and len(self._reads) < UNDER_WAY:
            read = asyncio.create_task(self._answer_some())
            self._reads.add(read)
            read.add_done_callback(self._ended)

    def _ended(self, read: asyncio.Task[None]) -> None:
        self._reads.discard(read)
        self._go_on()

    async def _answer_some(self) -> None:
        # Taken here and not before: whoever asked in the same turn of the loop is among them.
        questions = list(self._asked)[: self._at_once]
        waiting = [self._asked.pop(question) for question in questions]
        answers: Sequence[AnswerT | BaseException]
        try:
            answers = await self._read(questions)
        except asyncio.CancelledError:
            for each in waiting:
                each.cancel()
            raise
        except Exception as error:
            answers = [error] * len(waiting)
        for each, answer in zip(waiting, answers, strict=True):
            if isinstance(answer, BaseException):
                each.set_exception(answer)
                each.exception()  # looked at, in case nobody waits any more
            else:
                each.set_result(answer)
