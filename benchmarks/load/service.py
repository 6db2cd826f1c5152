"""``ihvp up`` under load: its parts as processes, a small warm model, and the floor beside it on the same store."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import numpy as np
import psutil

from examples.running_service import RunningService
from ihvp import Client
from ihvp.settings import Settings, child_environment
from ihvp.up.child import start_child, stop_group
from ihvp.up.embedded_store import free_port
from ihvp.up.store_at_hand import running_store

__all__ = ["MODEL", "LoadedService"]

MODEL: Final = "load"
FEATURES: Final = 8
START_S: Final = 60.0
FLOOR_DATABASE: Final = 9
WORKER: Final = "benchmarks.load.floor_worker"
BARE: Final = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "warning")
ROOT: Final = Path(__file__).resolve().parents[2]


class LoadedService:
    """A service that takes load; a context manager that stops it.

    Args:
        data_dir: Its data directory.

    Attributes:
        url: Its address.
        ready_s: Seconds from its start to the answer that it is ready.
        store_url: Its store.
        floor_url: The bare application beside it.
        client: A client, with the model registered and a worker that has it warm.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        began = time.perf_counter()
        self._running = RunningService(data_dir, orphan_grace_s="86400")
        self._floor: subprocess.Popen[bytes] | None = None
        try:
            self.url = self._running.wait_until_ready()
            self.ready_s = time.perf_counter() - began
            self.store_url = running_store(data_dir).url
            self.settings = Settings(redis_url=self.store_url, data_dir=data_dir)
            self.floor_url = self._start_floor()
            self.client = Client(self.url)
            self._warm_up()
        except BaseException:
            self.stop()
            raise

    def submission(self, number: float | str) -> dict[str, Any]:
        """The body of a job of a millisecond, with a right-hand side of its own."""
        return {
            "model": MODEL,
            "rhs": {"inline": [number, *[1.0] * FEATURES]},
            "hessian_perturbation": 0.1,
            "method": "cg",
        }

    def part(self, word: str) -> psutil.Process:
        """The process of a part, by a word of its command line."""
        found = [p for p in psutil.Process(self._running.pid).children() if any(word in a for a in p.cmdline())]
        return found[0]

    @property
    def floor(self) -> psutil.Process:
        """The process of the floor."""
        assert self._floor is not None
        return psutil.Process(self._floor.pid)

    @contextmanager
    def floor_worker(self) -> Iterator[None]:
        """Runs the bare Celery worker that the floor sends its messages to."""
        with (self.data_dir / "floor-worker.log").open("wb") as log:
            worker = start_child(
                [sys.executable, "-m", "celery", "--quiet", "-b", self._floor_database, "-A", WORKER, "worker", *BARE],
                environment=child_environment(),
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        try:
            httpx.post(f"{self.floor_url}/task", timeout=START_S).raise_for_status()
            yield
        finally:
            stop_group(worker, 2.0)

    @property
    def _floor_database(self) -> str:
        return re.sub(r"/\d+$", f"/{FLOOR_DATABASE}", self.store_url)

    @contextmanager
    def resting_worker(self) -> Iterator[None]:
        """Holds the worker still, so that what is measured is the acceptance of jobs alone; well below its lease."""
        parent = self.part("workers.celery_app")
        family = [*parent.children(recursive=True), parent]
        for process in family:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in reversed(family):
                process.send_signal(signal.SIGCONT)

    def drained(self, timeout_s: float = 300.0) -> float:
        """Waits until no job waits or runs; returns the seconds that it took."""
        began = time.perf_counter()
        while any(self._count(state) for state in ("queued", "running")):
            if time.perf_counter() - began > timeout_s:
                raise TimeoutError(f"jobs were still waiting after {timeout_s:g} s")
            time.sleep(0.05)
        return time.perf_counter() - began

    def stop(self) -> None:
        """Stops the service and the floor."""
        if self._floor is not None:
            stop_group(self._floor, 2.0)
        self._running.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.stop()

    def _count(self, state: str) -> int:
        answer = httpx.get(f"{self.url}/v1/jobs", params={"state": state, "limit": 1}, timeout=20.0)
        return len(answer.raise_for_status().json()["jobs"])

    def _start_floor(self) -> str:
        port = free_port()
        self._floor = start_child(
            [sys.executable, "-m", "benchmarks.load.floor", self._floor_database, str(port)],
            environment=child_environment(),
            cwd=ROOT,
        )
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/key")
        return url

    def _warm_up(self) -> None:
        rng = np.random.default_rng(0)
        self.client.register_model(
            MODEL,
            architecture={"type": "linear", "config": {"in_features": FEATURES, "out_features": 1}},
            weights={"weight": rng.normal(size=(1, FEATURES)), "bias": rng.normal(size=1)},
            loss="mse",
            data={"inputs": rng.normal(size=(64, FEATURES)), "targets": rng.normal(size=(64, 1))},
            dtype="float64",
        )
        for _ in range(3):
            b = rng.normal(size=FEATURES + 1)
            self.client.solve(model=MODEL, rhs=b, hessian_perturbation=0.1, progress=False, timeout=60)


def wait_for(url: str, timeout_s: float = START_S) -> float:
    """Asks until the answer is 200; returns the seconds it took."""
    began = time.perf_counter()
    while True:
        try:
            if httpx.get(url, timeout=2.0).status_code == httpx.codes.OK:
                return time.perf_counter() - began
        except httpx.TransportError:
            pass
        if time.perf_counter() - began > timeout_s:
            raise TimeoutError(f"{url} did not answer within {timeout_s:g} s")
        time.sleep(0.005)
