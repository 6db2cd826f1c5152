"""A real Celery worker on a real store, as its operator would start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from celery import Celery

from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.jobs.record import JobRecord
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.submission import JobRequest
from ihvp.settings import Settings, child_environment
from tests.waiting import eventually
from tests.workers.problems import new_id
from workers.broker import make_celery, publish_token

ROOT = Path(__file__).parents[2]


class Service:
    """The store and the blobs of one namespace, and jobs in it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = RedisJobStore.from_settings(settings)
        self.blobs = FilesystemBlobStore(settings.blob_dir, settings.max_store_bytes)
        self._celery: Celery = make_celery(settings)

    def submit(self, request: JobRequest, *, tokens: int = 1) -> str:
        """Stores a job and wakes workers for it."""
        job = self.store.create(new_id(), request)
        for _ in range(tokens):
            self.wake(job.id)
        return job.id

    def wake(self, job_id: str) -> None:
        """Publishes a token."""
        publish_token(self._celery, job_id)

    def finished(self, job_id: str, timeout_s: float = 40.0) -> JobRecord:
        """The job, once it has ended."""

        def ended() -> JobRecord | None:
            job = self.store.get(job_id)
            return job if job.finished else None

        return eventually(ended, timeout_s)

    def solving(self, job_id: str, iterations: int = 3) -> JobRecord:
        """The job, once its solver has reported so many iterations."""

        def under_way() -> JobRecord | None:
            job = self.store.get(job_id)
            assert not job.finished, f"it ended before it could be interrupted: {job.state}, {job.error}"
            reached = job.progress is not None and job.progress.iteration >= iterations
            return job if reached else None

        return eventually(under_way)

    def states(self, job_id: str) -> list[str]:
        """The states that the job went through, from its events."""
        return [e.data["state"] for e in self.store.events(job_id, limit=10_000) if e.type == "state"]


class RunningWorker:
    """A worker process and its child.

    Args:
        service: Where it finds jobs.
        log: File for its output.
        python_path: A folder to put on its module path.
        **overrides: Settings of its own.
    """

    def __init__(self, service: Service, log: Path, *, python_path: Path | None = None, **overrides: Any) -> None:
        self._service = service
        self.log = log
        settings = service.settings
        environment = child_environment(
            redis_url=settings.redis_url,
            namespace=settings.namespace,
            data_dir=str(settings.data_dir),
            threads="1",  # the tests' machine is shared; small operations lose by more
            **{name: str(value) for name, value in overrides.items()},
        )
        if python_path is not None:
            environment["PYTHONPATH"] = os.pathsep.join([str(python_path), environment.get("PYTHONPATH", "")])
        known = {worker.worker_id for worker in service.store.workers()}
        command = [sys.executable, "-m", "celery", "-A", "workers.celery_app", "worker", "--without-gossip"]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--without-mingle", "-n", f"{settings.namespace}@{id(self)}"],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        eventually(lambda: {w.worker_id for w in service.store.workers()} - known or self._still_alive())

    @property
    def child(self) -> psutil.Process:
        """The one pool child."""
        return eventually(lambda: next(iter(psutil.Process(self.process.pid).children()), None))

    def kill_child(self) -> float:
        """Kills the child as the system would for want of memory; returns when."""
        self.child.send_signal(signal.SIGKILL)
        return time.monotonic()

    def terminate(self, timeout_s: float = 15.0) -> float:
        """Asks the worker to end; returns the seconds it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout_s)
        return time.monotonic() - began

    def close(self) -> None:
        """Makes sure that nothing is left of it."""
        if self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
            psutil.wait_procs(children, timeout=5)

    def _still_alive(self) -> None:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
