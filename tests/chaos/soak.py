"""``make soak MINUTES=10``: steady mixed traffic against ``ihvp up``, and whether any part of it grows.

Memory and descriptors of every part are sampled and drawn; a part that has grown over the time after the warm-up, by
the line fitted to its samples, is named. At the end everything that ``tests/chaos/invariants.py`` asks for must hold.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from examples.running_service import RunningService
from ihvp import Client
from ihvp.errors import JobAlreadyFinished
from ihvp.jobs.states import TERMINAL
from ihvp.settings import Settings
from ihvp.up.store_at_hand import running_store
from tests.chaos import invariants
from tests.chaos.problem import Problem

OUT: Final = Path(".bench/soak")
MIB: Final = 1024 * 1024
JOBS_A_SECOND: Final = 4.0
KEPT: Final = 0.1
"""Of the jobs that are not deleted once they have ended: those are looked at in the end."""
WARM_UP: Final = 1 / 3
SHORTEST_S: Final = 300.0
"""A shorter run is still warming up: nothing is said of its slopes."""
ALLOWED: Final = {"rss_mib": (12.0, 0.08), "descriptors": (8.0, 0.1)}
"""Growth after the warm-up that is no leak: so much, or this part of the median, whichever is more."""


@dataclass
class Samples:
    """What was measured, a line for each part and moment."""

    times: dict[str, list[float]] = field(default_factory=dict)
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def take(self, at: float, parts: dict[str, psutil.Process]) -> None:
        """Adds a sample of each part that is there."""
        for name, process in parts.items():
            with suppress(psutil.Error):
                measured = {"rss_mib": process.memory_info().rss / MIB, "descriptors": float(process.num_fds())}
                self.times.setdefault(name, []).append(at)
                for what, value in measured.items():
                    self.values.setdefault(name, {}).setdefault(what, []).append(value)

    def growth(self, name: str, what: str) -> tuple[float, float]:
        """How much a part has grown after the warm-up by the line through its samples, and how much it may."""
        times, values = np.array(self.times[name]), np.array(self.values[name][what])
        late = times >= times[0] + WARM_UP * (times[-1] - times[0])
        times, values = times[late], values[late]
        least, share = ALLOWED[what]
        allowed = max(least, share * float(np.median(values)))
        if len(times) < 3:
            return 0.0, allowed
        slope = float(np.polyfit(times, values, 1)[0])
        return slope * float(times[-1] - times[0]), allowed

    def grown(self) -> list[str]:
        """A line for each part that has grown more than it may."""
        found = []
        for name, measured in self.values.items():
            for what in measured:
                growth, allowed = self.growth(name, what)
                if growth > allowed:
                    found.append(f"{name}: {what} has grown by {growth:.1f}, allowed are {allowed:.1f}")
        return found


def parts_of(pid: int) -> dict[str, psutil.Process]:
    """The processes of ``ihvp up`` by the names of their parts; a worker's child has its own."""
    up = psutil.Process(pid)
    found = {"up": up}
    words = {"uvicorn": "api", "celery": "worker", "workers.": "reconciler", "-server": "store"}
    for process in up.children():
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            name = next((name for word, name in words.items() if word in line), process.name())
            name = "webhooks" if "workers.webhooks" in line else name
            while name in found:
                name += "'"
            found[name] = process
            if name.startswith("worker"):
                for child in process.children():
                    found["solving child"] = child
    return found


class Traffic:
    """A steady mix: jobs of several kinds, polls, lists, streams, results, cancellations and deletions."""

    def __init__(self, client: Client, problem: Problem, seed: int) -> None:
        self.client, self.problem = client, problem
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.kept: list[str] = []
        self._following: list[str] = []
        self._number = 0

    def submit(self) -> None:
        """One more job."""
        name = self.chance.choice(["chaos-mlp", "chaos-linear"])
        made: dict[str, Any] = self.problem.submission(self._number, name)
        made["method"] = self.chance.choice(["cg", "cg", "cg", "direct", "minres"])
        made["priority"] = self.chance.choice(["low", "normal", "high"])
        self._number += 1
        self._following.append(self.client.submit(**made).id)
        self.counts["submitted"] += 1
        if self.chance.random() < 0.03:
            with suppress(JobAlreadyFinished):
                self.client.cancel(self._following[-1])
                self.counts["cancelled"] += 1

    def follow(self) -> None:
        """Looks after the oldest jobs: those that have ended are read, and most are deleted."""
        for job_id in self._following[:8]:
            job = self.client.job(job_id)
            self.counts["polls"] += 1
            if job.state not in TERMINAL:
                continue
            self._following.remove(job_id)
            if job.result is not None:
                self.client.result(job_id)
                self.counts["results"] += 1
            if self.chance.random() < KEPT:
                self.kept.append(job_id)
            else:
                self.client.delete(job_id)
                self.counts["deleted"] += 1
        if self.chance.random() < 0.1:
            next(iter(self.client.jobs(page_size=20)), None)
            self.counts["lists"] += 1
        if self._following and self.chance.random() < 0.1:
            for _ in self.client.events(self._following[-1]):
                self.counts["events"] += 1

    def finish(self) -> None:
        """Follows what is still under way to its end."""
        for job_id in self._following:
            self.client.wait(job_id, timeout=60)
        self.kept += self._following


def soak(minutes: float, seed: int, folder: Path) -> tuple[Samples, Traffic, invariants.Report]:
    """Runs the service for so long; everything it leaves is in the folder."""
    samples, data_dir = Samples(), folder / "data"
    with RunningService(data_dir) as service:
        service.wait_until_ready()
        problem = Problem()
        with Client(service.url) as client:
            problem.register(client)
            traffic = Traffic(client, problem, seed)
            for _ in range(10):
                traffic.submit()
            began = time.monotonic()
            end, next_sample = began + 60 * minutes, began
            pause = max(0.5, 60 * minutes / 300)
            while (now := time.monotonic()) < end:
                if now >= next_sample:
                    samples.take(now - began, parts_of(service.pid))
                    next_sample = now + pause
                traffic.submit()
                traffic.follow()
                time.sleep(max(0.0, 1 / JOBS_A_SECOND - (time.monotonic() - now)))
            traffic.finish()
        server = running_store(data_dir)
        family = [service.pid, *(child.pid for child in psutil.Process(service.pid).children(recursive=True))]
    left = [pid for pid in family if psutil.pid_exists(pid)]
    server.start()
    try:
        settings = Settings(redis_url=server.url, data_dir=data_dir)
        report = invariants.look(settings, traffic.kept, problem.residual)
    finally:
        server.stop()
    report.complaints += [f"process {pid} is left" for pid in left]
    return samples, traffic, report


def draw(samples: Samples, path: Path) -> None:
    """Memory and descriptors of each part over the time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(9, 7))
    for axis, what in zip(axes, ALLOWED, strict=True):
        for name, measured in samples.values.items():
            axis.plot(np.array(samples.times[name]) / 60, measured[what], label=name)
        axis.set_ylabel(what)
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize="small", ncols=3)
    axes[1].set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    """Runs, draws and judges.

    Returns:
        The exit status: 0 where nothing has grown and everything holds.
    """
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the plot and the samples")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ihvp-soak-", dir=asked.out) as folder:
        samples, traffic, report = soak(asked.minutes, asked.seed, Path(folder).absolute())
    draw(samples, asked.out / "soak.png")
    (asked.out / "soak.json").write_text(json.dumps({"times": samples.times, "values": samples.values}) + "\n")
    print(f"traffic: {dict(traffic.counts)}\njobs kept: {report}")
    for name in samples.values:
        told = []
        for what, values in samples.values[name].items():
            told.append(f"{what} {values[-1]:.0f} ({samples.growth(name, what)[0]:+.1f})")
        print(f"{name:15} {', '.join(told)}")
    complaints = list(report.complaints)
    if 60 * asked.minutes < SHORTEST_S:
        print(f"verdict on growth: none, it takes {SHORTEST_S / 60:g} minutes")
    else:
        complaints += samples.grown()
        print(f"verdict on growth: {'none' if not samples.grown() else 'see below'}")
    print("\n".join(complaints) or f"all holds; {asked.out}/soak.png")
    return int(bool(complaints))


if __name__ == "__main__":
    raise SystemExit(main())
