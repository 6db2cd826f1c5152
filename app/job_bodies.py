"""A job as callers see it: its entity tag, and its body rendered once for all who ask."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ihvp.jobs.states import TERMINAL, JobState
from ihvp.jobs.store import Standing
from ihvp.wire import JobView

if TYPE_CHECKING:
    from ihvp.jobs.outlook import Place
    from ihvp.jobs.record import JobRecord
    from ihvp.jobs.redis_store import AsyncRedisJobStore

__all__ = ["JobBodies", "KeptBodies", "Sight"]

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


class KeptBodies:
    """Bodies of jobs, up to a bound of bytes.

    A body is a function of id, revision and place in the queue, so what is kept never goes stale, whichever process
    changes the job.
    """

    def __init__(self) -> None:
        self._bodies: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[str, str]) -> bytes | None:
        """The body of a job's id and entity tag, where it is kept."""
        body = self._bodies.get(key)
        if body is not None:
            self._bodies.move_to_end(key)
        return body

    def keep(self, key: tuple[str, str], body: bytes) -> None:
        """Keeps a body, unless it is a large one; those not looked at for longest go."""
        if len(body) > LARGEST_KEPT or key in self._bodies:
            return
        self._bodies[key] = body
        self._bytes += len(body)
        while self._bytes > KEPT_BYTES:
            _, dropped = self._bodies.popitem(last=False)
            self._bytes -= len(dropped)


class JobBodies:
    """Looks at jobs, and keeps the bodies of those looked at of late.

    Args:
        store: Where jobs live.
        kept: Bodies that are kept; those of several stores may be kept together, for a body is rendered only of what
            its store has let one look at.
    """

    def __init__(self, store: AsyncRedisJobStore, kept: KeptBodies | None = None) -> None:
        self._store = store
        self._kept = KeptBodies() if kept is None else kept

    def of(self, store: AsyncRedisJobStore) -> JobBodies:
        """The same for what another store lets one see."""
        return JobBodies(store, self._kept)

    async def look(self, job_id: str) -> Sight:
        """The job now.

        Raises:
            JobNotFound: No job has this id.
        """
        return Sight(job_id, await self._store.standing(job_id))

    async def look_at_all(self, job_id: str) -> Sight:
        """The job now, its body read along: for those who have waited for it to change, and will want to see it.

        Raises:
            JobNotFound: No job has this id.
        """
        job = await self._store.get(job_id)
        if job.state is JobState.Queued:
            return await self.look(job_id)  # where it stands in the queue is not in its record
        sight = Sight(job_id, Standing(job.state, job.revision, None))
        self._kept.keep((job_id, sight.etag), _body(job, None))
        return sight

    async def render(self, sight: Sight) -> tuple[Sight, bytes]:
        """The body of what was seen, or of a later sight if the job has moved since.

        Raises:
            JobNotFound: The job is gone.
        """
        while True:
            key = (sight.job_id, sight.etag)
            body = self._kept.get(key)
            if body is not None:
                return sight, body
            job = await self._store.get(sight.job_id)
            if job.revision == sight.standing.revision:
                body = _body(job, sight.standing.place)
                self._kept.keep(key, body)
                return sight, body
            sight = await self.look(sight.job_id)


def _body(job: JobRecord, place: Place | None) -> bytes:
    return JobView.of(job, place).model_dump_json().encode()
