"""64 queued single-vector jobs on one model: solved together, as the service does, and one by one.

A real Valkey that syncs every write, and real worker processes. All jobs wait in the store before the first worker is
woken; the time ends when the last result can be read. Every measurement has a model of its own (its weights differ in
the last digits), so that nothing is left over from the one before.

One by one is measured twice. A worker that keeps what its solves have found is warm after the first job: that is what
the service does without coalescing, and the ratio to it is what coalescing adds. Without that reuse each job is solved
as if it were the only one, which is what a service does that keeps nothing.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from celery import Celery
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from ulid import ULID

from benchmarks.jobs import cg_job
from benchmarks.machine import usable_cores
from benchmarks.problem_files import Problem, read_problem
from benchmarks.rows import ROWS, Row
from benchmarks.training import prepare_problem
from ihvp.blobs.filesystem import FilesystemBlobStore
from ihvp.jobs.redis_store import RedisJobStore
from ihvp.jobs.states import TERMINAL, JobState
from ihvp.models.spec import ModelSpec
from ihvp.results import ResultDocument
from ihvp.settings import Settings, child_environment
from ihvp.up.child import start_child, stop_group
from ihvp.up.embedded_store import EmbeddedStore
from workers.broker import make_celery, publish_token

__all__ = ["ARMS", "JOBS", "TOGETHER", "measure_coalescing"]

JOBS: Final = 64
ROUNDS: Final = 3
ROUND_SECONDS: Final = 40.0
"""A model whose round takes longer is not measured again."""
JOBS_TIMEOUT_S: Final = 600.0
"""All jobs have to have ended by then."""
START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.002
LAST_WORDS: Final = 3000
"""Characters of a worker's log that are shown where something went wrong."""
CHECKOUT: Final = Path(__file__).resolve().parent.parent

TOGETHER: Final = "together"
ARMS: Final = {
    TOGETHER: (JOBS, True),
    "one by one, with reuse": (1, True),
    "one by one, without reuse": (1, False),
}
"""Right-hand sides that a worker may take at a time, and whether solves may use what earlier ones left, by name."""
HIDDEN: Final = ((8,), (64,), (128, 128))
"""Inner widths of the networks: 610, 4,810 and 26,122 parameters; the last one is the row digits-mlp."""


def measure_coalescing(problems: Path, *, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Seconds until all 64 results are visible, in rounds over all ways.

    Args:
        problems: Folder of the benchmark's problems.
        quick: One round.
        tell: Where a line of progress goes.

    Returns:
        For each network ``parameters`` and, by way, ``seconds`` of each round, ``median`` and ``products`` of all
        jobs together (in the last round).
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="ihvp-bench-") as folder, ExitStack() as stack:
        server = EmbeddedStore(Path(folder))
        server.start()
        stack.callback(server.stop)
        services = {
            most: stack.enter_context(_running_service(Path(folder), server.url, most))
            for most in {most for most, _ in ARMS.values()}
        }
        for hidden in HIDDEN:
            problem_folder = _prepared(problems, hidden)
            network = _Network(read_problem(problem_folder, torch.float32, JOBS), _row(hidden).architecture)
            for most, service in services.items():
                # Whatever a worker imports or sets up on its first jobs is no part of any time.
                service.run(network.upload(service), network.problem.cold[:2], recycle=most > 1)
            taken: dict[str, list[float]] = {name: [] for name in ARMS}
            products: dict[str, float] = {}
            for _ in range(1 if quick else ROUNDS):
                began = time.monotonic()
                for name, (most, recycle) in ARMS.items():
                    service = services[most]
                    spec = network.upload(service)
                    seconds, products[name] = service.run(spec, network.problem.cold, recycle=recycle)
                    taken[name].append(seconds)
                    tell(
                        f"  {network.parameters:,} parameters, {name}: {seconds:.2f} s, {products[name]:.0f} products"
                    )
                if time.monotonic() - began > ROUND_SECONDS:
                    break
            ways = {
                name: {"seconds": seconds, "median": statistics.median(seconds), "products": products[name]}
                for name, seconds in taken.items()
            }
            found.append({"parameters": network.parameters, "hidden": list(hidden), "ways": ways})
    return found


@dataclass
class _Service:
    """A store, its blobs and one worker."""

    settings: Settings
    store: RedisJobStore
    blobs: FilesystemBlobStore
    celery: Celery
    log: Path

    def put(self, **tensors: Tensor) -> str:
        with self.blobs.writer() as writer:
            writer.write(save({name: tensor.clone().contiguous() for name, tensor in tensors.items()}))
            return writer.commit().digest

    def run(self, spec: ModelSpec, rhs: Tensor, *, recycle: bool) -> tuple[float, float]:
        """Seconds from the first wake-up until every job's result is visible, and products of all of them."""
        requests = [cg_job(spec, self.put(b=b), b.shape, recycle=recycle) for b in rhs]
        ids = [self.store.create(f"job_{ULID()}", request).id for request in requests]
        began = time.perf_counter()
        for job_id in ids:
            publish_token(self.celery, job_id)
        # The last one first: who waits for it asks for few of the others before they have ended.
        for job_id in reversed(ids):
            self._await(job_id)
        taken = time.perf_counter() - began
        return taken, sum(self._products(self._result(job_id)) for job_id in ids)

    def _await(self, job_id: str) -> None:
        # Not the whole job: reading it takes time, from the worker on a machine with few cores too.
        give_up = time.monotonic() + JOBS_TIMEOUT_S
        while (state := self.store.standing(job_id).state) not in TERMINAL:
            if time.monotonic() > give_up:
                raise RuntimeError(f"job {job_id} did not end within {JOBS_TIMEOUT_S:g} s: {state.value}")
            time.sleep(POLL_S)

    def _result(self, job_id: str) -> str:
        job = self.store.get(job_id)
        unfinished = (
            [c.status.value for c in job.result.certificate if c.status.value != "converged"] if job.result else []
        )
        if job.state is not JobState.Succeeded or job.result is None or unfinished:
            said = self.log.read_text(errors="replace")[-LAST_WORDS:]
            raise RuntimeError(f"job {job_id} ended {job.state.value}: {job.error or unfinished}\n{said}")
        return job.result.digest

    def _products(self, digest: str) -> float:
        """Products of a job; of a block, its share."""
        with safe_open(self.blobs.local_path(digest), framework="pt") as file:
            info = ResultDocument.from_metadata(file.metadata()).info.model_dump()
        together: int = (info.get("coalesced") or {"jobs": 1})["jobs"]
        return float(info["hvps"]) / together


class _Network:
    """A trained network, to be uploaded under ever new digests."""

    def __init__(self, problem: Problem, architecture: dict[str, Any]) -> None:
        self.problem = problem
        self.parameters = problem.cold.shape[1]
        self._architecture = architecture
        self._uploads = 0

    def upload(self, service: _Service) -> ModelSpec:
        """Its spec, with weights that differ from those of every earlier upload by less than a part in 10⁵."""
        self._uploads += 1
        scale = 1.0 + 1e-6 * self._uploads
        weights = {name: value * scale for name, value in self.problem.module.state_dict().items()}
        data = service.put(inputs=self.problem.x, targets=self.problem.y)
        fields = {
            "architecture": self._architecture,
            "weights": service.put(**weights),
            "loss": "cross_entropy",
            "data": {"inputs": f"{data}#inputs", "targets": f"{data}#targets", "batch_size": self.problem.x.shape[0]},
            "dtype": "float32",
        }
        return ModelSpec.model_validate(fields)


@contextmanager
def _running_service(folder: Path, url: str, most: int) -> Iterator[_Service]:
    """One worker that takes up to ``most`` right-hand sides at a time, on a namespace of its own."""
    settings = Settings(redis_url=url, namespace=f"bench-{most}", data_dir=folder / f"data-{most}", coalesce_rhs=most)
    store = RedisJobStore.from_settings(settings)
    environment = child_environment(
        redis_url=url,
        namespace=settings.namespace,
        data_dir=str(settings.data_dir),
        coalesce_rhs=str(most),
        threads=str(usable_cores()),
        log_level="warning",
    )
    command = ["-m", "celery", "-A", "workers.celery_app", "worker", "--without-gossip", "--without-mingle"]
    log = folder / f"worker-{most}.log"
    with log.open("wb") as output:
        worker = start_child(
            [sys.executable, *command, "-n", f"{settings.namespace}@bench"],
            environment=environment,
            cwd=CHECKOUT,
            stdout=output,
            stderr=output,
        )
        try:
            give_up = time.monotonic() + START_TIMEOUT_S
            while not store.workers():
                if worker.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"the worker did not start: {log.read_text(errors='replace')[-LAST_WORDS:]}")
                time.sleep(0.05)
            yield _Service(settings, store, FilesystemBlobStore(settings.blob_dir), make_celery(settings), log)
        finally:
            stop_group(worker, STOP_TIMEOUT_S)
            store.close()


def _row(hidden: Sequence[int]) -> Row:
    row = ROWS["digits-mlp"]
    config = {**row.architecture["config"], "hidden": list(hidden)}
    return replace(row, architecture={"type": "mlp", "config": config})


def _prepared(problems: Path, hidden: Sequence[int]) -> Path:
    row = _row(hidden)
    name = row.name if row == ROWS["digits-mlp"] else f"{row.name}-{'-'.join(map(str, hidden))}"
    prepare_problem(row, problems / name)
    return problems / name
