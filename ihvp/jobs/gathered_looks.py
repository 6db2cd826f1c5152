"""Looks at jobs, gathered: whoever polls while one round trip is under way shares the next one.

A poll is one small read, and most of what it costs is the round trip, not the reading. Under load hundreds of pollers
wait at a time; a look that serves all of them costs little more than one that serves one. A look always starts after
the poll that it answers has come in, so nobody is told of an older state than by a look of their own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ihvp.jobs import rules

if TYPE_CHECKING:
    from ihvp.jobs.calls import JobCalls
    from ihvp.jobs.store import Standing
    from ihvp.keyvalue.connection import AsyncExecutor

__all__ = ["GatheredLooks"]

Seen = tuple[str, str]

AT_ONCE: Final = 100
"""Jobs of one look: the server does nothing else meanwhile."""
UNDER_WAY: Final = 2
"""Looks under way at a time: while the server works on one, the answers to another are read."""


class GatheredLooks:
    """Answers how jobs stand; belongs to one event loop.

    Args:
        calls: The operations.
        executor: Carries them out.
    """

    def __init__(self, calls: JobCalls, executor: AsyncExecutor) -> None:
        self._calls = calls
        self._executor = executor
        self._asked: dict[Seen, asyncio.Future[Standing | None]] = {}
        self._looks: set[asyncio.Task[None]] = set()

    async def at(self, job: Seen) -> Standing:
        """How a job stands now.

        Args:
            job: Its id, and who looks: see ``JobCalls.seen``.

        Raises:
            JobNotFound: It is not there, or not seen.
            StoreUnavailable: The store does not say.
        """
        answer = self._asked.get(job)
        if answer is None:
            answer = self._asked[job] = asyncio.get_running_loop().create_future()
            self._go_on()
        # Several may wait for one answer: who leaves does not take it from the others.
        standing = await asyncio.shield(answer)
        if standing is None:
            raise rules.job_not_found(job[0])
        return standing

    def _go_on(self) -> None:
        if self._asked and len(self._looks) < UNDER_WAY:
            look = asyncio.create_task(self._look())
            self._looks.add(look)
            look.add_done_callback(self._looked)

    def _looked(self, look: asyncio.Task[None]) -> None:
        self._looks.discard(look)
        self._go_on()

    async def _look(self) -> None:
        # Taken here and not before: whoever asked in the same turn of the loop is among them.
        jobs = list(self._asked)[:AT_ONCE]
        answers = [self._asked.pop(job) for job in jobs]
        try:
            standings = await self._executor.run(self._calls.standings(jobs))
        except BaseException as error:
            for answer in answers:
                if isinstance(error, Exception):
                    answer.set_exception(error)
                    answer.exception()  # looked at, in case nobody waits any more
                else:
                    answer.cancel()
            if not isinstance(error, Exception):
                raise
            return
        for answer, standing in zip(answers, standings, strict=True):
            answer.set_result(standing)
