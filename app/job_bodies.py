"""A job as callers see it: its entity tag, and its body rendered once for all who ask."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ihvp.jobs.states import TERMINAL
from ihvp.jobs.store import Standing
from ihvp.wire import JobView

if TYPE_CHECKING:
    from ihvp.jobs.redis_store import AsyncRedisJobStore

__all__ = ["JobBodies", "Sight"]

KEPT_BYTES: Final = 8 * 1024 * 1024
LARGEST_KEPT: Final = 256 * 1024


@dataclass(frozen=True)
class Sight:
    """A job at one moment, its body not rendered yet."""

    job_id: str
    standing: Standing

    @property
    def etag(self) -> str:
        """Changes exactly when the body does: that is made of the record, of its place in the queue and the ETA."""
        place = self.standing.place
        if place is None:
            return f'"r{self.standing.revision}"'
        eta = place.eta
        times = [str(int(at.timestamp())) if at is not None else "-" for at in (eta.starts_at, eta.ends_at)]
        # Why a time is unknown is told apart too: it stands in the body.
        return f'"r{self.standing.revision}.{place.queue_position}.{".".join(times)}{(eta.unknown or "")[:4]}"'

    @property
    def finished(self) -> bool:
        """Whether the job has ended."""
        return self.standing.state in TERMINAL


class JobBodies:
    """Looks at jobs, and keeps the bodies of those looked at of late.

    A body is a function of id, revision and place in the queue, so what is kept never goes stale, whichever process
    changes the job.

    Args:
        store: Where jobs live.
    """

    def __init__(self, store: AsyncRedisJobStore) -> None:
        self._store = store
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._kept_bytes = 0

    async def look(self, job_id: str) -> Sight:
        """The job now.

        Raises:
            JobNotFound: No job has this id.
        """
        return Sight(job_id, await self._store.standing(job_id))

    async def render(self, sight: Sight) -> tuple[Sight, bytes]:
        """The body of what was seen, or of a later sight if the job has moved since.

        Raises:
            JobNotFound: The job is gone.
        """
        while True:
            key = (sight.job_id, sight.etag)
            body = self._kept.get(key)
            if body is not None:
                self._kept.move_to_end(key)
                return sight, body
            job = await self._store.get(sight.job_id)
            if job.revision == sight.standing.revision:
                body = JobView.of(job, sight.standing.place).model_dump_json().encode()
                self._keep(key, body)
                return sight, body
            sight = await self.look(sight.job_id)

    def _keep(self, key: tuple[str, str], body: bytes) -> None:
        if len(body) > LARGEST_KEPT or key in self._kept:
            return
        self._kept[key] = body
        self._kept_bytes += len(body)
        while self._kept_bytes > KEPT_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped)
