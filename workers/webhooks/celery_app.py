"""The sender's Celery application: ``celery -A workers.webhooks.celery_app worker --pool solo``.

Its queue is its own, so that no delivery waits behind a solve. A message says no more than "look": what is to be sent
stands in the store, and the sender looks there by itself every so often.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from celery import signals

from ihvp.settings import get_settings
from workers.broker import WEBHOOK_TASK, make_celery
from workers.logs import configure_logs
from workers.webhooks.sender import Sender

__all__ = ["app"]

_GRACE_S: Final = 3.0


def _build() -> Any:
    settings = get_settings()
    application = make_celery(settings)
    application.conf.update(
        task_default_queue=settings.webhook_queue_name,
        # The task ends at once; the sender has its own thread. So one process does, and its control loop stays free.
        worker_pool="solo",
        worker_concurrency=1,
        broker_connection_retry_on_startup=True,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    sender = Sender(settings)

    def look() -> None:
        sender.look()

    application.task(name=WEBHOOK_TASK, ignore_result=True, shared=False, lazy=False)(look)

    def set_up_logging(**_: Any) -> None:
        configure_logs(settings.log_level)
        # It would log each URL, and callers put tokens into them.
        logging.getLogger("httpx").setLevel(logging.WARNING)

    def start(**_: Any) -> None:
        # Before the broker is there: deliveries do not wait for it.
        sender.start()

    def close(**_: Any) -> None:
        sender.close(_GRACE_S)

    signals.setup_logging.connect(set_up_logging, weak=False)
    signals.worker_init.connect(start, weak=False)
    signals.worker_shutdown.connect(close, weak=False)
    return application


app = _build()
