"""An outbox in a namespace of its own, and senders of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import pytest

from ihvp.jobs.redis_store import RedisJobStore
from ihvp.settings import Settings
from ihvp.tenants import DEFAULT_TENANT
from ihvp.webhooks.record import Delivery, DeliveryState
from ihvp.webhooks.redis_store import RedisWebhookStore
from ihvp.webhooks.spec import WebhookEvent, WebhookSpec
from tests.store.samples import RESULT, job_request, new_id
from tests.waiting import eventually
from workers.webhooks.sender import Sender

MakeSender = Callable[..., Sender]


@dataclass
class Outbox:
    """The stores of one service."""

    settings: Settings
    jobs: RedisJobStore
    hooks: RedisWebhookStore

    def finish_job(self, url: str, *events: WebhookEvent) -> str:
        """A job that has just succeeded, and whose webhook is to be told so."""
        webhook = WebhookSpec(url=url, events=list(events) or [WebhookEvent.Finished])
        job_id = self.jobs.create(new_id(), job_request(webhook=webhook)).id
        job = self.jobs.claim("worker", 60.0)
        assert job is not None
        self.jobs.succeed(job.id, job.attempt, RESULT)
        return job_id

    def of(self, job_id: str) -> Delivery:
        """The one delivery of a job."""
        (delivery,) = self.hooks.list(DEFAULT_TENANT, limit=10, job_id=job_id)[0]
        return delivery

    def ended(self, job_id: str) -> Delivery:
        """The same, once it has ended."""
        return eventually(lambda: d if (d := self.of(job_id)).state is not DeliveryState.Pending else None)

    def tried(self, job_id: str, times: int = 1) -> Delivery:
        """The same, once it was tried so often."""
        return eventually(lambda: d if len((d := self.of(job_id)).tries) >= times and not d.sending else None)

    @property
    def secret(self) -> str:
        """The newest secret."""
        return self.hooks.secrets(DEFAULT_TENANT)[0].secret


@pytest.fixture
def box(valkey: Settings) -> Iterator[Outbox]:
    """An outbox with a secret, whose webhooks may go to this machine."""
    settings = valkey.model_copy(
        update={
            "webhook_allowed_hosts": ("127.0.0.1", "localhost"),
            "reconcile_interval_s": 0.05,
            "webhook_pauses_s": (0.05, 0.05, 0.05),
        }
    )
    with (
        closing(RedisJobStore.from_settings(settings)) as jobs,
        closing(RedisWebhookStore.from_settings(settings)) as hooks,
    ):
        hooks.create_secret(DEFAULT_TENANT)
        yield Outbox(settings, jobs, hooks)


@pytest.fixture
def make_sender(box: Outbox) -> Iterator[MakeSender]:
    """Starts a sender with other settings; it ends with the test."""
    with ExitStack() as stack:

        def make(**changes: Any) -> Sender:
            sender = Sender(box.settings.model_copy(update=changes))
            sender.start()
            stack.callback(sender.close, 0.0)
            return sender

        yield make
