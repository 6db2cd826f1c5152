"""Webhooks of real jobs, on the whole service as ``ihvp up`` runs it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from examples.running_service import RunningService
from ihvp import Client
from tests.docs.test_documents import programs
from tests.service.test_survival import parts
from tests.waiting import eventually
from tests.webhooks.receiver import receiving, status

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that may send to this machine, and has no secret yet."""
    with RunningService(
        tmp_path_factory.mktemp("hooked"),
        webhook_allowed_hosts='["127.0.0.1"]',
        webhook_pauses_s="[0.2, 0.2, 60]",
    ) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def client(hooked: RunningService) -> Iterator[Client]:
    with Client(hooked.url) as client:
        yield client


def secret(client: Client) -> str:
    """A secret, whether there was one or not."""
    made = client.webhooks.rotate_secret() if client.webhooks.secrets() else [client.webhooks.create_secret()]
    assert made[0].secret is not None
    return made[0].secret


def model(client: Client) -> str:
    rng = np.random.default_rng(0)
    return client.register_model(
        "line",
        architecture={"type": "linear", "config": {"in_features": 2, "out_features": 1}},
        weights={"weight": np.ones((1, 2)), "bias": np.zeros(1)},
        loss="mse",
        data={"inputs": rng.normal(size=(20, 2)), "targets": rng.normal(size=(20, 1))},
        dtype="float64",
    ).reference


def sender(service: RunningService) -> psutil.Process:
    (found,) = parts(service, "workers.webhooks.celery_app")
    return found


def test_the_document_does_what_it_says(hooked: RunningService, tmp_path: Path) -> None:
    (program,) = programs((ROOT / "docs/webhooks.md").read_text(encoding="utf-8"))
    assert program.language == "bash"
    assert "delivered" in program.run(hooked, tmp_path)


def test_a_real_job_is_told_of_once_and_at_once(client: Client) -> None:
    key, name = secret(client), model(client)
    with receiving() as receiver:
        webhook = {"url": receiver.url, "events": ["job.started", "job.finished", "job.succeeded", "job.failed"]}
        job = client.wait(client.submit(model=name, rhs=np.ones(3), hessian_perturbation=0.1, webhook=webhook).id)
        ended = time.monotonic()
        eventually(lambda: len(receiver.received) == 3)
        assert time.monotonic() - ended < 10
        documents = [each.verified(key) for each in receiver.received]
        assert sorted(each["type"] for each in documents) == ["job.finished", "job.started", "job.succeeded"]
        (finished,) = [each["data"] for each in documents if each["type"] == "job.finished"]
        assert finished == client.job(job.id).model_dump(mode="json")
        # What a receiver has is noted a moment later.
        eventually(lambda: all(each.ended_at for each in client.webhooks.deliveries(job_id=job.id)))
        told = list(client.webhooks.deliveries(job_id=job.id))
        assert {each.id for each in told} == {each.id for each in receiver.received}
        assert [len(each.tries) for each in told] == [1, 1, 1]


def test_a_sender_that_is_killed_is_back_and_nothing_is_lost(hooked: RunningService, client: Client) -> None:
    key, name = secret(client), model(client)
    with receiving(status(500)) as receiver:
        os.kill(sender(hooked).pid, signal.SIGKILL)
        jobs = [
            client.submit(model=name, rhs=np.ones(3), hessian_perturbation=0.1, webhook=receiver.url) for _ in range(3)
        ]
        eventually(lambda: len({each.id for each in receiver.received}) == 3, timeout_s=40)
        assert {each.verified(key)["data"]["id"] for each in receiver.received} == {job.id for job in jobs}
        eventually(
            lambda: all(d.state.value == "delivered" for j in jobs for d in client.webhooks.deliveries(job_id=j.id))
        )
        assert len(receiver.received) == 4  # one of them twice: it was answered 500


def test_a_delivery_that_is_waiting_is_replayed_at_once(client: Client) -> None:
    secret(client)
    with receiving(*[status(500)] * 3) as receiver:
        job = client.submit(model=model(client), rhs=np.ones(3), hessian_perturbation=0.1, webhook=receiver.url)

        def tried_out() -> bool:
            told = list(client.webhooks.deliveries(job_id=job.id))
            return bool(told) and len(told[0].tries) == 3

        eventually(tried_out)
        (waiting,) = client.webhooks.deliveries(job_id=job.id)
        assert waiting.due_at is not None
        client.webhooks.replay(waiting.id)
        eventually(lambda: client.webhooks.delivery(waiting.id).state.value == "delivered")
