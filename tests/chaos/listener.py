"""A receiver of webhooks that is no better than the rest: it refuses some, and leaves others without an answer."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from ihvp.jobs.redis_store import RedisJobStore
from tests.webhooks.receiver import Receiver, receiving, status

__all__ = ["complaints_of", "moody_receiver"]


def _hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.close()


def _stall(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(3.0)
    status(204)(handler)


@contextmanager
def moody_receiver(chance: random.Random, deliveries: int) -> Iterator[Receiver]:
    """A receiver whose first answers are refusals, broken connections and silence as often as they are thanks."""
    moods = [status(204)] * 4 + [status(500), status(503, Retry_After="1"), _hang_up, _stall]
    with receiving(*(chance.choice(moods) for _ in range(deliveries))) as receiver:
        yield receiver


def complaints_of(receiver: Receiver, secret: str, told: Sequence[str], store: RedisJobStore) -> list[str]:
    """What is wrong with what arrived: an end that nobody was told, a second one, a state that is not the job's.

    Args:
        receiver: Of everything.
        secret: Has signed everything.
        told: The jobs whose end was to be told.
        store: Has the jobs.
    """
    found: list[str] = []
    states: dict[str, set[str]] = {}
    ids: dict[str, set[str]] = {}
    for each in receiver.received:
        # What is not signed right raises.
        job = each.verified(secret)["data"]
        states.setdefault(job["id"], set()).add(job["state"])
        ids.setdefault(job["id"], set()).add(each.id)
    for job_id in told:
        state = store.get(job_id).state.value
        if states.get(job_id, set()) != {state}:
            found.append(f"{job_id} ended as {state}, told was {sorted(states.get(job_id, set())) or 'nothing'}")
        if len(ids.get(job_id, set())) > 1:
            found.append(f"the end of {job_id} was told under {len(ids[job_id])} ids")
    found += [f"{job_id} was told of and has no webhook" for job_id in states.keys() - set(told)]
    return found
