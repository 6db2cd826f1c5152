"""A worker that lives and hears nothing: told by readiness, noticed by itself, and ended to be started anew."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ihvp.jobs.states import JobState
from ihvp.jobs.submission import ResolvedRhs
from ihvp.settings import Settings
from tests.app.driver import running_api
from tests.waiting import eventually
from tests.workers.problems import Example, job_request, put_tensors, softmax_regression
from tests.workers.running import RunningWorker, Service
from workers.broker import make_celery
from workers.deafness import DEAF_STATUS, ConsumerWatch, ParentWatch, Turns
from workers.shared_number import SharedNumber

PATIENCE_S = 5.0
Start = Callable[..., RunningWorker]


@pytest.fixture(scope="module")
def example() -> Example:
    return softmax_regression(200, 5, 3)


@pytest.fixture
def service(valkey: Settings) -> Service:
    return Service(valkey.model_copy(update={"worker_alive_s": PATIENCE_S / 2, "canary_s": 0.5, "log_level": "error"}))


@pytest.fixture
def start(service: Service, tmp_path: Path) -> Iterator[Start]:
    workers: list[RunningWorker] = []

    def start_one(**overrides: object) -> RunningWorker:
        log = tmp_path / f"worker-{len(workers)}.log"
        workers.append(RunningWorker(service, log, worker_alive_s=PATIENCE_S, **overrides))
        return workers[-1]

    yield start_one
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGCONT)
        worker.close()


@pytest.fixture
def readiness(service: Service) -> Iterator[Callable[[], dict[str, Any]]]:
    with running_api(service.settings) as url, httpx.Client(base_url=url, timeout=20) as http:
        yield lambda: dict(http.get("/readyz").json())


def submit(service: Service, example: Example) -> str:
    spec = example.upload(service.blobs)
    b = put_tensors(service.blobs, b=example.flat)
    rhs = ResolvedRhs(blob=b, shape=[example.num_params])
    return service.submit(job_request(spec, example.num_params, rhs))


@pytest.mark.service
@pytest.mark.chaos  # tests/service/test_deaf_worker.py does the same under ihvp up
def test_a_hung_parent_makes_the_service_unready_and_is_ended_by_its_child(
    service: Service,
    start: Start,
    readiness: Callable[[], dict[str, Any]],
    example: Example,
) -> None:
    worker = start()
    eventually(lambda: readiness()["ready"])
    child = worker.child
    worker.process.send_signal(signal.SIGSTOP)
    # The child reports itself all the same: what looks at it alone sees a live worker.
    found = eventually(lambda: (seen := readiness()) and not seen["ready"] and seen)
    assert found["workers"] == 0 or "workers live and take no messages" in found["chain"]
    job_id = submit(service, example)
    assert worker.process.wait(4 * PATIENCE_S) == -signal.SIGKILL
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 5)
    assert "parent_hangs" in worker.log.read_text()
    start()
    assert service.finished(job_id).state is JobState.Succeeded
    eventually(lambda: readiness()["ready"])


@pytest.mark.service
def test_a_deaf_consumer_is_ended_by_its_parent(
    service: Service,
    start: Start,
    readiness: Callable[[], dict[str, Any]],
    example: Example,
) -> None:
    worker = start()
    eventually(lambda: readiness()["ready"])
    # The process lives, answers Celery's pings, and takes nothing from its queue.
    control = make_celery(service.settings).control
    assert control.cancel_consumer(service.settings.queue_name, reply=True, timeout=5)
    assert control.ping(timeout=2)
    eventually(lambda: not readiness()["ready"])
    job_id = submit(service, example)
    assert worker.process.wait(6 * PATIENCE_S) == DEAF_STATUS
    assert "consumer_deaf" in worker.log.read_text()
    start()
    assert service.finished(job_id).state is JobState.Succeeded


@pytest.mark.service
def test_a_worker_on_another_broker_never_makes_the_service_ready(
    service: Service, start: Start, readiness: Callable[[], dict[str, Any]]
) -> None:
    other = service.settings.redis_url.rpartition("/")[0] + "/9"
    lost = start(broker_url=other)
    found = eventually(lambda: "restart them" in (seen := readiness())["chain"] and seen)
    assert (found["ready"], found["store"], found["broker"], found["workers"]) == (False, "ok", "ok", 1)
    assert "none ever did" in found["chain"]
    lost.terminate()
    start()
    eventually(lambda: readiness()["ready"])


class TestConsumerWatch:
    def test_messages_that_wait_beside_an_idle_child_are_told_after_a_while(self) -> None:
        turns, now, waiting = Turns(SharedNumber()), [0.0], [1]
        watch = ConsumerWatch(turns, lambda: waiting[0], 10.0, clock=lambda: now[0])

        def deaf_after(seconds: float) -> bool:
            now[0] += seconds
            return watch.is_deaf()

        assert not any(deaf_after(20) for _ in range(3)), "the child is not ready"
        turns.open()
        assert [deaf_after(6) for _ in range(4)] == [False, False, False, True]
        with turns:
            assert not deaf_after(100), "it works"
        assert not deaf_after(100), "it took a message meanwhile"
        assert not deaf_after(6)
        waiting[0] = 0
        assert not deaf_after(100), "nothing waits"
        waiting[0] = 1
        assert [deaf_after(6) for _ in range(3)] == [False, False, True]

    def test_a_broker_that_is_away_is_heard_by_nobody(self) -> None:
        turns, now = Turns(SharedNumber()), [0.0]
        turns.open()

        def away() -> int:
            raise ConnectionError

        watch = ConsumerWatch(turns, away, 10.0, clock=lambda: now[0])
        for _ in range(5):
            now[0] += 100
            assert not watch.is_deaf()

    def test_a_successor_is_not_taken_for_the_child_before(self) -> None:
        number = SharedNumber()
        turns = Turns(number)
        turns.open()
        before = turns.count
        turns.shut()
        time.sleep(0.002)
        turns.open()
        assert turns.count > before
        assert turns.idle


class TestParentWatch:
    def test_a_loop_that_stands_still_hangs_unless_it_waits_for_the_broker(self) -> None:
        ticks, now, answers = SharedNumber(), [0.0], [False]
        watch = ParentWatch(0, ticks, lambda: answers[0], 10.0, clock=lambda: now[0])

        def hangs_after(seconds: float) -> bool:
            now[0] += seconds
            return watch.hangs()

        assert not hangs_after(100), "it has not begun"
        ticks.value = 1
        assert not hangs_after(100)
        assert not hangs_after(9)
        assert not hangs_after(2), "the broker is away"
        answers[0] = True
        assert not hangs_after(9)
        assert hangs_after(2)
        ticks.value = 2
        assert not hangs_after(100)
