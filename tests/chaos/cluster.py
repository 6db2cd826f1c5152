"""A service started part by part, so that a test can break each: store, API, reconcilers, workers, and links."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import redis

from ihvp import Client
from ihvp.jobs.record import JobRecord
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.settings import Settings, child_environment
from ihvp.up.child import start_child, stop_group
from ihvp.up.embedded_store import EmbeddedStore, free_port
from tests.chaos import invariants
from tests.chaos.problem import Problem
from tests.waiting import eventually
from workers.reconciler import ROLE

ROOT: Final = Path(__file__).parents[2]
# Everything that takes its time in a service takes a tenth of it here.
QUICK: Final = {
    "lease_s": 3.0,
    "lease_renew_s": 0.5,
    "reconcile_interval_s": 0.2,
    "worker_alive_s": 3.0,
    "store_timeout_s": 1.5,
    "keep_free_bytes": 0,
    "threads": 1,
}


class Part:
    """One process of the service, with its log."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self.process = start_child(command, environment=environment, cwd=ROOT, stdout=output, stderr=output)

    @property
    def child(self) -> psutil.Process:
        """A worker's pool child, where the solving happens."""
        return eventually(lambda: next(iter(psutil.Process(self.process.pid).children()), None))

    @property
    def frozen(self) -> bool:
        """Whether a worker's child has been stopped."""
        children = psutil.Process(self.process.pid).children()
        return any(child.status() == psutil.STATUS_STOPPED for child in children)

    def said(self, word: str) -> bool:
        """Whether its log has this word."""
        return word in self.log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process that was started."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kills it with its children."""
        stop_group(self.process, 0.0)


class Cluster:
    """The parts, what was submitted to them, and what must hold of it at the end.

    Args:
        folder: For data and logs.
        prefix: Put before the command of every part, such as what enters another namespace.
        **settings: Settings of all parts, over the quick ones.
    """

    def __init__(self, folder: Path, prefix: Sequence[str] = (), **settings: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.server = EmbeddedStore(folder)
        self.settings = Settings(redis_url=self.server.url, **{"data_dir": folder / "data", **QUICK, **settings})
        self.accepted: list[str] = []
        self.parts: list[Part] = []
        self.armed = folder / "armed"
        self.groups: set[int] = set()
        self._prefix = list(prefix)
        self.server.start()
        self.store = RedisJobStore.from_settings(self.settings)
        self.problem = Problem()
        self._client: Client | None = None
        self.url = ""

    # Parts

    def worker(self, *before: str, **overrides: Any) -> Part:
        """Starts a worker and waits until it reports for work; ``before`` is put before its command."""
        known = {worker.worker_id for worker in self.store.workers()}
        part = self.start_worker(*before, **overrides)

        def reported() -> bool:
            assert part.process.poll() is None, part.log.read_text()[-2000:]
            return bool({worker.worker_id for worker in self.store.workers()} - known)

        eventually(reported, what="the start of a worker")
        return part

    def start_worker(self, *before: str, **overrides: Any) -> Part:
        """Starts a worker."""
        name = f"w{len(self.parts)}"
        command = ["-m", "celery", "-A", "tests.chaos.faulty_worker", "worker", "--without-gossip", "--without-mingle"]
        return self._start(name, [*before, sys.executable, *command, "-n", f"{name}@chaos"], overrides)

    def reconciler(self, **overrides: Any) -> Part:
        """Starts a reconciler."""
        return self._start(f"r{len(self.parts)}", [sys.executable, "-m", "workers.reconciler"], overrides)

    def sender(self, **overrides: Any) -> Part:
        """Starts a sender of webhooks."""
        name = f"s{len(self.parts)}"
        command = ["-m", "celery", "--quiet", "-A", "workers.webhooks.celery_app", "worker", "--without-gossip"]
        command += ["--without-mingle", "--pool", "solo", "-n", f"{name}@chaos"]
        return self._start(name, [sys.executable, *command], overrides)

    def api(self, **overrides: Any) -> Part:
        """Starts the API on a port that it keeps, and waits until it answers."""
        port = int(self.url.rpartition(":")[2]) if self.url else free_port()
        self.url = f"http://127.0.0.1:{port}"
        serve = ["-m", "uvicorn", "app.main:create_app", "--factory", "--port", str(port), "--no-access-log"]
        part = self._start(f"a{len(self.parts)}", [sys.executable, *serve], overrides)

        def answers() -> bool:
            assert part.process.poll() is None, part.log.read_text()[-2000:]
            try:
                return httpx.get(f"{self.url}/healthz", timeout=2.0).status_code == 200
            except httpx.TransportError:
                return False

        eventually(answers, what="the start of the API")
        return part

    def _start(self, name: str, command: Sequence[str], overrides: dict[str, Any]) -> Part:
        settings = {**self.settings.model_dump(exclude_unset=True), **overrides}
        environment = child_environment(**{name: _written(value) for name, value in settings.items()})
        environment["CHAOS_ARMED"] = str(self.armed)
        part = Part(name, [*self._prefix, *command], environment, self.folder / f"{name}.log")
        self.parts.append(part)
        self.groups.add(part.process.pid)
        return part

    def arm(self, action: str, step: str) -> None:
        """Has the next worker that comes to a step of ``faulty_worker`` die or freeze there."""
        unready = self.armed.with_suffix(".new")
        unready.write_text(f"{action} {step}")
        unready.rename(self.armed)

    def restart_store(self) -> None:
        """Kills the store's server without warning and starts it on the same data."""
        server = self.server._process
        assert server is not None
        server.kill()
        server.wait()
        self.server.start()

    # Jobs

    @property
    def client(self) -> Client:
        """A client of the API, with the problem registered."""
        if self._client is None:
            self._client = Client(self.url)
            self.problem.register(self._client)
        return self._client

    def submit(self, **changes: Any) -> str:
        """A job that the service has accepted."""
        job = self.client.submit(**{**self.problem.submission(len(self.accepted)), **changes})
        self.accepted.append(job.id)
        return job.id

    def ended(self, job_id: str, timeout_s: float = 90.0) -> JobRecord:
        """The job, once it has ended."""

        def look() -> JobRecord | None:
            job = self.store.get(job_id)
            return job if job.finished else None

        return eventually(look, timeout_s, f"the end of {job_id}")

    def solving(self, job_id: str) -> JobRecord:
        """The job, once its solver iterates."""

        def look() -> JobRecord | None:
            job = self.store.get(job_id)
            assert not job.finished, f"it ended before it could be interrupted: {job.state}, {job.error}"
            return job if job.progress is not None and job.progress.iteration > 2 else None

        return eventually(look, what=f"the solve of {job_id}")

    def states(self, job_id: str) -> list[str]:
        """The states it went through."""
        return [e.data["state"] for e in self.store.events(job_id, limit=10_000) if e.type == "state"]

    def leader_pid(self) -> int | None:
        """The process id of the reconciler that leads."""
        with redis.Redis.from_url(self.server.url) as client:
            held = next((client.get(key) for key in client.scan_iter(f"*:leader:{ROLE}")), None)
        return int(held.split(b"/")[1]) if isinstance(held, bytes) else None

    # The end

    def check(self) -> invariants.Report:
        """Stops all parts but the store, and looks at everything that must hold."""
        self.stop_parts()
        report = invariants.look(self.settings, self.accepted, self.problem.residual)
        report.complaints += [f"still runs: {line}" for line in invariants.processes_left(self.groups)]
        return report

    def stop_parts(self) -> None:
        """Asks all parts to end, as an operator would, and waits."""
        if self._client is not None:
            self._client.close()
            self._client = None
        running = [part for part in self.parts if part.process.poll() is None]
        for part in running:
            part.send(signal.SIGCONT)
            part.send(signal.SIGTERM)
        for part in running:
            try:
                part.process.wait(15)
            except subprocess.TimeoutExpired:
                part.kill()

    def close(self) -> None:
        """Leaves nothing behind, whatever the test did."""
        if self._client is not None:
            self._client.close()
        for part in self.parts:
            for child in _family(part.process.pid):
                child.kill()
            part.kill()
        self.store.close()
        self.server.stop()


def _written(value: Any) -> str:
    return json.dumps(value) if isinstance(value, tuple | list) else str(value)


def _family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def clock_shift(shift: str) -> list[str] | None:
    """What to put before a command so that its clock is wrong, monotonic time apart; None without faketime."""
    found = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
    # The library, not its wrapper: that stays between us and the worker, and does not pass signals on.
    return found and ["env", f"LD_PRELOAD={found}", f"FAKETIME={shift}", "FAKETIME_DONT_FAKE_MONOTONIC=1"]
