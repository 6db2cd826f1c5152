"""Callers who submit steadily through the published port, and what became of every job that was accepted."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Self

from ihvp import Client
from ihvp.errors import IhvpError, JobNotFound
from ihvp.jobs.states import TERMINAL, JobState
from tests.chaos.problem import Problem

__all__ = ["Load", "Verdict"]

DAMPING: Final = 0.5
RTOL: Final = 1e-8
# The dense Hessian and the service's products round differently.
SLACK: Final = 1.05
KINDS: Final = {"chaos-mlp": "cg", "chaos-linear": "direct"}


@dataclass
class Verdict:
    """What became of the accepted jobs.

    Attributes:
        accepted: How many a caller was told are accepted.
        ends: Of those, by how they ended.
        further_attempts: Attempts beyond the first, of all together.
        refused: Submissions that were refused, by code; the callers know of each.
        lost: Jobs that the service does not know any more.
        complaints: A line for each thing that is not as promised.
        worst_residual: The greatest relative residual, recomputed with the dense Hessian.
    """

    accepted: int
    ends: Counter[str] = field(default_factory=Counter)
    further_attempts: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    complaints: list[str] = field(default_factory=list)
    worst_residual: float = 0.0


class Load:
    """Submits small jobs, each with right-hand sides of its own, until it is told to stop.

    Args:
        url: The service's address.
        pause_s: Between two submissions.
    """

    def __init__(self, url: str, pause_s: float = 0.1) -> None:
        self.accepted: dict[str, tuple[str, int]] = {}
        self._problem, self._refused, self._pause_s = Problem(), Counter[str](), pause_s
        # A caller with patience: while the store is away it asks again, under the same Idempotency-Key.
        self._client = Client(url, retry_s=90.0)
        self._problem.register(self._client)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._submit, name="load")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)

    def wait_for(self, count: int, timeout_s: float) -> None:
        """Returns once this many more jobs were accepted."""
        wanted, until = len(self.accepted) + count, time.monotonic() + timeout_s
        while len(self.accepted) < wanted:
            if time.monotonic() > until:
                raise AssertionError(f"{len(self.accepted)} jobs accepted, {wanted} wanted; refused: {self._refused}")
            time.sleep(0.05)

    def settle(self, timeout_s: float) -> Verdict:
        """Waits for the end of every accepted job and checks each; call it when no more are submitted."""
        assert not self._thread.is_alive(), "still submitting"
        verdict, until = Verdict(len(self.accepted), refused=self._refused), time.monotonic() + timeout_s
        for job_id, (name, number) in self.accepted.items():
            try:
                job = self._client.wait(job_id, timeout=max(1.0, until - time.monotonic()))
            except JobNotFound:
                verdict.lost += 1
                verdict.complaints.append(f"{job_id} was accepted and is lost")
                continue
            except IhvpError as error:
                verdict.complaints.append(f"{job_id}: {error}")
                continue
            verdict.ends[job.state.value] += 1
            verdict.further_attempts += max(0, job.attempt - 1)
            states = [event.data["state"] for event in self._client.events(job_id) if event.type == "state"]
            if [state for state in states if JobState(state) in TERMINAL] != [job.state.value]:
                verdict.complaints.append(f"{job_id} is {job.state.value} and its events say {states}")
            if job.state is not JobState.Succeeded:
                verdict.complaints.append(f"{job_id} ended {job.state.value}: {job.error}")
                continue
            residual = self._residual(job_id, name, number)
            verdict.worst_residual = max(verdict.worst_residual, residual)
            if not residual <= RTOL * SLACK:
                verdict.complaints.append(f"{job_id}: the true residual is {residual:.2e}")
        self._client.close()
        return verdict

    def _submit(self) -> None:
        number = 0
        while not self._stop.wait(self._pause_s):
            number += 1
            name = list(KINDS)[number % len(KINDS)]
            try:
                job = self._client.submit(
                    model=name,
                    rhs=self._problem.b(name, number),
                    method=KINDS[name],
                    hessian_perturbation=DAMPING,
                    options={"rtol": RTOL} if KINDS[name] == "cg" else None,
                )
            except IhvpError as error:
                self._refused[error.code] += 1
                continue
            self.accepted[job.id] = (name, number)

    def _residual(self, job_id: str, name: str, number: int) -> float:
        # The service checks a result against its digest as it sends it, and so does the client.
        x = self._client.result(job_id).x
        return float(self._problem.residual_of(name, self._problem.b(name, number), DAMPING, x).max())
