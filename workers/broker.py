"""The Celery application as every process of the service that speaks to the broker configures it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from celery import Celery

from ihvp.messages import CANARY, SOLVE_TASK, transport_options

if TYPE_CHECKING:
    from ihvp.settings import Settings

__all__ = ["CANARY", "SOLVE_TASK", "WEBHOOK_TASK", "make_celery", "publish_token", "waiting_tokens", "wake_sender"]

WEBHOOK_TASK: Final = "ihvp.webhooks"
MOST_LOOKS_WAITING: Final = 16


def make_celery(settings: Settings) -> Celery:
    """An application that sends and takes JSON messages over the service's one queue and keeps no results."""
    app = Celery("ihvp", broker=settings.resolved_broker_url, set_as_current=False)
    app.conf.update(
        # The job store holds every result; a second copy could only disagree.
        result_backend=None,
        task_ignore_result=True,
        task_default_queue=settings.queue_name,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        broker_connection_timeout=settings.store_timeout_s,
        broker_transport_options=transport_options(settings.store_timeout_s),
        enable_utc=True,
    )
    return app


def publish_token(app: Celery, job_id: str) -> None:
    """Wakes one worker. The id is a hint: the worker claims the best waiting job, whichever that is.

    Raises:
        kombu.exceptions.OperationalError: The broker is away.
    """
    app.send_task(SOLVE_TASK, args=[job_id], ignore_result=True, retry=False)


def wake_sender(app: Celery, queue_name: str) -> None:
    """Has a sender of webhooks look at the outbox.

    One look serves all that is due, so while nobody takes the messages no more than a few are left behind.

    Args:
        app: The Celery application.
        queue_name: The senders' queue.

    Raises:
        kombu.exceptions.OperationalError: The broker is away.
    """
    if waiting_tokens(app, queue_name) < MOST_LOOKS_WAITING:
        app.send_task(WEBHOOK_TASK, queue=queue_name, ignore_result=True, retry=False)


def waiting_tokens(app: Celery, queue_name: str) -> int:
    """Messages that no worker has taken yet.

    Raises:
        kombu.exceptions.OperationalError: The broker is away.
    """
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=0)
        channel: Any = connection.default_channel
        # Declaring makes a queue that was never used, or was flushed away, count as empty.
        return int(channel.queue_declare(queue=queue_name, durable=True).message_count)
