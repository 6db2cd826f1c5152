"""Hundreds of jobs of every kind under random faults; ``make chaos SEED=n`` repeats a run."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import pytest
import redis

from ihvp.errors import IhvpError, JobAlreadyFinished
from tests.chaos.cluster import Cluster, Part
from tests.chaos.listener import complaints_of, moody_receiver
from tests.chaos.steps import STEPS
from tests.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.chaos, pytest.mark.timeout(1200)]

JOBS: Final = int(os.environ.get("JOBS", "300"))
FAULTS_EVERY_S: Final = (0.7, 2.5)
SETTLED_WITHIN_S: Final = 240.0
HOOKED: Final = 0.4
"""Of the jobs: somebody is told of their end."""
KINDS: Final = {"plain": 40, "many rows": 10, "alike": 20, "direct": 8, "minres": 6, "bad": 6, "slow": 4, "due": 6}


def job(cluster: Cluster, chance: random.Random, number: int) -> tuple[str, dict[str, Any]]:
    """A submission of a random kind."""
    problem = cluster.problem
    kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
    name = "chaos-mlp" if kind == "alike" or chance.random() < 0.6 else "chaos-linear"
    made = problem.submission(number, name)
    made["priority"] = chance.choice(["low", "normal", "high"])
    if kind == "many rows":
        made |= {"rhs": problem.b(name, number, 5), "tags": {"number": str(number), "rows": "5"}}
    elif kind in {"direct", "minres"}:
        made["method"] = kind
    elif kind == "bad":
        # Points whose gradient is not a number: only a worker finds that out.
        points = {"inputs": np.full((2, 4), np.nan), "targets": np.zeros(2, dtype=np.int64)}
        made |= {"rhs": {"gradient_of": points}, "tags": {"bad": "1"}}
    elif kind == "slow":
        made |= problem.slow(chance.randrange(1_000, 6_000), name)
    elif kind == "due":
        made["deadline_s"] = chance.choice([1.0, 5.0, 60.0])
    return kind, made


class Storm:
    """The faults: each a method that makes one, and is over when it returns or at its set time."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self.cluster, self.chance = cluster, chance
        self.workers = [cluster.worker(), cluster.worker()]
        self.reconcilers = [cluster.reconciler(), cluster.reconciler()]
        self.senders = [cluster.sender(), cluster.sender()]
        self.api = cluster.parts[0]
        self.counts: Counter[str] = Counter()
        self._thaw: list[tuple[float, psutil.Process]] = []

    def strike(self) -> None:
        """One random fault."""
        faults = [self.kill_child, self.arm, self.arm, self.freeze, self.kill_worker, self.kill_reconciler]
        faults += [self.kill_sender, self.flush_broker, self.restart_store, self.kill_api, self.double_messages]
        fault = self.chance.choice(faults)
        fault()
        self.counts[fault.__name__] += 1
        self.thaw()

    def thaw(self, *, all_of_them: bool = False) -> None:
        """Lets go on what has been frozen long enough."""
        now = time.monotonic()
        for due, process in list(self._thaw):
            if all_of_them or due < now:
                self._thaw.remove((due, process))
                if process.is_running():
                    process.send_signal(signal.SIGCONT)

    def kill_child(self) -> None:
        child = self.child()
        if child is not None:
            child.kill()

    def arm(self) -> None:
        self.cluster.arm("kill", self.chance.choice(STEPS))

    def freeze(self) -> None:
        child = self.child()
        if child is not None:
            child.send_signal(signal.SIGSTOP)
            # Some for less than a lease, some for more.
            self._thaw.append((time.monotonic() + self.chance.uniform(0.5, 8.0), child))

    def kill_worker(self) -> None:
        self._replace(self.workers, self.cluster.start_worker)

    def kill_reconciler(self) -> None:
        self._replace(self.reconcilers, self.cluster.reconciler)

    def kill_sender(self) -> None:
        self._replace(self.senders, self.cluster.sender)

    def kill_api(self) -> None:
        self.api.kill()
        self.api = self.cluster.api()

    def restart_store(self) -> None:
        self.cluster.restart_store()

    def flush_broker(self) -> None:
        with redis.Redis.from_url(self.cluster.settings.resolved_broker_url) as client:
            client.flushdb()

    def double_messages(self) -> None:
        queue = self.cluster.settings.queue_name
        with redis.Redis.from_url(self.cluster.settings.resolved_broker_url) as client:
            messages = client.lrange(queue, 0, -1)
            if messages:
                self.chance.shuffle(messages)
                client.rpush(queue, *messages)

    def child(self) -> psutil.Process | None:
        parent = self.chance.choice(self.workers).process
        try:
            return next(iter(psutil.Process(parent.pid).children()), None)
        except psutil.Error:
            return None

    def _replace(self, parts: list[Part], start: Any) -> None:
        dead = self.chance.choice(parts)
        dead.kill()
        parts.remove(dead)
        parts.append(start())


def test_no_job_is_lost_and_none_ends_twice_whatever_fails(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"\nseed {seed}: make chaos SEED={seed} repeats it")
    chance, faults = random.Random(seed), random.Random(seed + 1)
    # Each death of a worker counts; with so many, the cap on a job's attempts would be met by chance.
    pauses = (0.2, 0.5, 1.0, *[2.0] * 20)
    hooked: dict[str, Any] = {
        "webhook_allowed_hosts": ("127.0.0.1",),
        "webhook_pauses_s": pauses,
        "webhook_timeout_s": 1.5,
    }
    cluster = Cluster(tmp_path / "storm", max_attempts=25, **hooked)
    told: list[str] = []
    with ExitStack() as stack:
        stack.callback(cluster.close)
        receiver = stack.enter_context(moody_receiver(random.Random(seed + 2), JOBS // 2))
        cluster.api()
        secret = cluster.client.webhooks.create_secret().secret
        assert secret is not None
        storm = Storm(cluster, faults)
        kinds, refused = Counter[str](), Counter[str]()
        next_fault = time.monotonic() + 1.0
        while len(cluster.accepted) < JOBS:
            kind, made = job(cluster, chance, len(cluster.accepted) + sum(refused.values()))
            hook = chance.random() < HOOKED
            if hook:
                made["webhook"] = {"url": receiver.url}
            try:
                job_id = cluster.submit(**made)
            except IhvpError as error:
                refused[error.code] += 1
                continue
            kinds[kind] += 1
            if hook:
                told.append(job_id)
            if chance.random() < 0.08:
                cancel(cluster, chance.choice(cluster.accepted[-20:]))
            if time.monotonic() > next_fault:
                storm.strike()
                next_fault = time.monotonic() + faults.uniform(*FAULTS_EVERY_S)
            storm.thaw()
            time.sleep(chance.expovariate(8.0))
            assert job_id not in cluster.accepted[:-1]
        storm.thaw(all_of_them=True)
        cluster.armed.unlink(missing_ok=True)
        waiting = set(cluster.accepted)

        def settled() -> bool:
            storm.thaw(all_of_them=True)
            waiting.difference_update([each for each in waiting if cluster.store.get(each).finished])
            return not waiting

        eventually(settled, SETTLED_WITHIN_S, "the end of all jobs")
        failures = Counter(
            found.error.code for each in cluster.accepted if (found := cluster.store.get(each)).error is not None
        )
        eventually(lambda: not undelivered(cluster), SETTLED_WITHIN_S, "the delivery of all webhooks")
        unheard = complaints_of(receiver, secret, told, cluster.store)
        report = cluster.check()
        report.complaints += unheard
        tries = len(receiver.received)
        print(f"webhooks: {len(told)} jobs told of by {tries} tries that arrived, {len(unheard)} complaints")
        print(f"jobs: {dict(kinds)}\nrefused: {dict(refused)}\nfaults: {dict(storm.counts)}")
        print(f"ended: {report}\nfailures: {dict(failures)}\nseed {seed}")
        assert report.complaints == []
        assert report.counts["lost"] == 0
        assert report.counts["succeeded"] > JOBS / 2
        assert "internal_error" not in failures


def cancel(cluster: Cluster, job_id: str) -> None:
    with suppress(JobAlreadyFinished):
        cluster.client.cancel(job_id)


def undelivered(cluster: Cluster) -> bool:
    """Whether a webhook has not arrived yet."""
    return any(True for _ in cluster.client.webhooks.deliveries(state="pending"))
