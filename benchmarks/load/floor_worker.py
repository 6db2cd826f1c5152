"""The floor's worker, set as ours, with nothing to solve: ``celery -b URL -A benchmarks.load.floor_worker worker``."""

from __future__ import annotations

from functools import cache
from typing import Final

import redis
from celery import Celery

__all__ = ["ANSWER", "TASK", "app", "make_app"]

TASK: Final = "floor.answer"
ANSWER: Final = "answer:"
"""In front of what was asked: the list that the answer comes in."""
KEPT_S: Final = 60


def make_app(url: str | None = None) -> Celery:
    """Celery with what costs time set as the service has it.

    Args:
        url: The database of broker and answers; None: the one that Celery is told.
    """
    made = Celery("floor", broker=url, set_as_current=False)
    made.conf.update(
        task_ignore_result=True,
        task_acks_late=True,
        worker_concurrency=1,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_send_task_events=False,
        task_default_queue="floor-tasks",
    )
    return made


app = make_app()


@cache
def _store() -> redis.Redis:
    return redis.Redis.from_url(app.conf.broker_url)


def _answer(asked: str, document: str) -> None:
    with _store().pipeline(transaction=True) as pipeline:
        pipeline.rpush(ANSWER + asked, document)
        pipeline.expire(ANSWER + asked, KEPT_S)
        pipeline.execute()


app.task(name=TASK, ignore_result=True, shared=False, lazy=False)(_answer)
