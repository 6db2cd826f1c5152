"""What a block of jobs costs beside its solve, on a real server and disk, and what is left where its worker dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import redis
import torch
from safetensors import safe_open

import workers.finishing
from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.blobs.writing import FileBlobGroup
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import ResolvedRhs
from ihvp.settings import Settings
from ihvp.up.embedded_store import EmbeddedStore
from tests.workers.problems import job_request, new_id, put_tensors, softmax_regression
from workers.execution import Executor
from workers.member import Member

JOBS = 12


class Block:
    """Jobs that can be solved as one block, queued on a server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = RedisJobStore.from_settings(settings)
        self.blobs = FilesystemBlobStore(settings.blob_dir)
        example = softmax_regression(100, 10, 3)
        self.spec, self.p = example.upload(self.blobs), example.num_params

    def submit(self, count: int = JOBS) -> list[str]:
        generator = torch.Generator().manual_seed(1)
        ids = []
        for _ in range(count):
            b = put_tensors(self.blobs, b=torch.randn(self.p, generator=generator))
            request = job_request(self.spec, self.p, ResolvedRhs(blob=b, shape=[self.p]))
            ids.append(self.store.create(new_id(), request).id)
        return ids

    def work(self, owner: str = "first") -> None:
        Executor(self.settings, self.store, self.blobs, owner, lambda: False).run_next()


def test_a_block_is_claimed_told_of_and_ended_in_a_few_writes(
    own_server: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine is, no progress is due between the first iteration and the end, and no lease.
    rare = {"progress_interval_s": 1000.0, "lease_s": 3000.0, "lease_renew_s": 1000.0}
    block = Block(Settings(redis_url=own_server.url, data_dir=tmp_path / "data", **rare))
    block.submit()
    block.work()  # brings the scripts along
    ids = block.submit()
    client = redis.Redis.from_url(own_server.url)
    client.config_resetstat()
    syncs, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (syncs.append(descriptor), sync(descriptor))[1])
    block.work()
    calls = {name.removeprefix("cmdstat_"): told["calls"] for name, told in client.info("commandstats").items()}
    assert {block.store.get(job_id).state for job_id in ids} == {JobState.Succeeded}
    # Loading, and then the end with all that was told of the solve, however many jobs there are; the end alone where
    # the thread that writes progress comes so late that it is the first.
    assert 1 <= calls["exec"] <= 2
    assert calls["evalsha"] == calls["exec"] * JOBS + 1, "nothing but the claim comes alone"
    # Each blob, each of its folders, and the root: three syncs a job, were each blob written alone.
    assert len(syncs) <= 2 * JOBS + 1


def die(settings: Settings, step: str) -> None:
    """A worker that is killed at a step; in a process of its own."""

    def kill(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if step == "before the blobs are synced":
        FileBlobGroup.commit = kill  # type: ignore[method-assign, assignment]
    elif step == "among the renames":
        moved, move = [], FilesystemBlobStore.move_in

        def move_some(self: FilesystemBlobStore, unfinished: Path, digest: str) -> frozenset[Path]:
            moved.append(digest)
            if len(moved) == JOBS // 2:
                kill()
            return move(self, unfinished, digest)

        FilesystemBlobStore.move_in = move_some  # type: ignore[method-assign]
    elif step == "before the ends are written":
        workers.finishing.end_together = kill  # type: ignore[assignment]
    else:
        Member._ended = kill  # type: ignore[method-assign, assignment]
    Block(settings).work()


@pytest.mark.parametrize(
    ("step", "some_ended"),
    [
        ("before the blobs are synced", False),
        ("among the renames", False),
        ("before the ends are written", False),
        ("after the ends are written", True),
    ],
)
def test_a_worker_that_is_killed_while_it_ends_a_block_loses_nothing(
    valkey: Settings, step: str, some_ended: bool
) -> None:
    block = Block(valkey)
    ids = block.submit()
    worker = multiprocessing.get_context("spawn").Process(target=die, args=(valkey, step))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    states = [block.store.get(job_id).state for job_id in ids]
    # All of them, where the machine writes them in a quarter of a second; fewer go ahead where it does not.
    ended = states.count(JobState.Succeeded)
    assert bool(ended) == some_ended
    assert len(block.store.reclaim_owner("first", 3)) == JOBS - ended
    while block.store.queue_length():
        block.work("second")
    for job_id in ids:
        job = block.store.get(job_id)
        assert job.result is not None
        seen = [event.data["state"] for event in block.store.events(job_id) if event.type == "state"]
        assert seen.count("succeeded") == 1
        with safe_open(block.blobs.local_path(job.result.digest), framework="pt") as file:
            assert bool(file.get_tensor("x").isfinite().all())
    assert block.store.reclaim_owner("second", 3) == []
