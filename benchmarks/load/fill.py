"""Puts finished jobs into a store that is not being served, so that the next start finds them there."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Final

import redis
from ulid import ULID

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.store import Finish, JobFilter
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore

__all__ = ["fill"]

TOGETHER: Final = 500


def fill(data_dir: Path, count: int) -> float:
    """Adds finished jobs like the newest that the store has, each with a result blob of its own.

    They go through the store's own verbs, unsynced: only how much is kept matters here, not how it came there.

    Args:
        data_dir: Of a service that is stopped and has solved a job.
        count: How many.

    Returns:
        The seconds that it took.
    """
    began = time.perf_counter()
    server = EmbeddedStore(data_dir)
    server.start()
    try:
        settings = Settings(redis_url=server.url, data_dir=data_dir)
        with redis.Redis.from_url(server.url) as client:
            client.config_set("appendfsync", "no")
        store = RedisJobStore.from_settings(settings)
        blobs = _Unsynced(settings.blob_dir)
        (like,) = store.list(JobFilter(), limit=1).jobs
        result = like.result
        if result is None:
            raise ValueError(f"{like.id} has no result to copy")
        content = blobs.local_path(result.digest).read_bytes()
        request = like.request.model_copy(update={"tags": {"fill": "yes"}})
        for start in range(0, count, TOGETHER):
            some = [store.create(f"job_{ULID()}", request).id for _ in range(min(TOGETHER, count - start))]
            claimed = {job.id: job.attempt for _ in some if (job := store.claim("fill", 600.0)) is not None}
            endings = []
            for number, job_id in enumerate(some):
                digest = blobs.keep(content + f"{start + number:012d}".encode())
                kept = result.model_copy(update={"digest": digest, "size": len(content) + 12})
                endings.append(Finish(job_id, claimed[job_id], like.state, kept))
            refused = [error for error in store.finish_all(endings) if error is not None]
            if refused:
                raise refused[0]
        store.close()
    finally:
        server.stop(timeout_s=60.0)
    return time.perf_counter() - began


class _Unsynced(FilesystemBlobStore):
    """Blobs whose bytes are left to the system to write."""

    def keep(self, content: bytes) -> str:
        """Stores bytes."""
        digest = hashlib.sha256(content).hexdigest()
        path = self.root / "unfinished" / digest
        path.write_bytes(content)
        self.move_in(path, f"sha256:{digest}")
        return f"sha256:{digest}"
