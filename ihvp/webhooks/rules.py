"""What every outbox applies in the same way."""

from __future__ import annotations

import base64
import secrets
from typing import Final

from ihvp.errors import DeliveryNotFound, DeliveryUnderWay, WebhookSecretExists, WebhookSecretMissing
from ihvp.jobs.states import TERMINAL, JobState
from ihvp.keyvalue.cursors import time_cursor

__all__ = [
    "DELIVERY_ID_PATTERN",
    "MOST_SECRETS",
    "MOST_TRIES_KEPT",
    "SCAN_BOUND",
    "delivery_id",
    "delivery_not_found",
    "delivery_under_way",
    "events_of",
    "listing_cursor",
    "new_secret",
    "secret_exists",
    "secret_missing",
]

DELIVERY_ID_PATTERN: Final = r"^msg_[0-9A-HJKMNP-TV-Z]{26}_[0-9]{1,20}-[0-9]{1,20}_[a-z]{1,16}$"
# Standard Webhooks wants 24 to 64 bytes.
SECRET_BYTES: Final = 32
# One that counts, and those that a few rotations in a row have left to count for a while.
MOST_SECRETS: Final = 4
MOST_TRIES_KEPT: Final = 50
# Most deliveries that one page of a filtered listing looks at.
SCAN_BOUND: Final = 500
CREATE: Final = "ihvp webhooks secret create"


def events_of(state: JobState) -> list[str]:
    """The events that a job's transition into a state is."""
    if state is JobState.Running:
        return ["job.started"]
    return ["job.finished", f"job.{state.value}"] if state in TERMINAL else []


def delivery_id(job_id: str, event_id: str, event_type: str) -> str:
    """The id of the delivery of an event of a job's stream: the same however often it is made."""
    return f"msg_{job_id.removeprefix('job_')}_{event_id}_{event_type.removeprefix('job.')}"


def new_secret() -> tuple[str, str]:
    """An id and a secret, drawn at random."""
    key = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    return f"whk_{secrets.token_hex(6)}", f"whsec_{key}"


def listing_cursor(cursor: str | None) -> int | None:
    """Reads the cursor of a listing.

    Raises:
        InvalidInput: It is none that a listing has given out.
    """
    return time_cursor(cursor, listing="a listing of deliveries", newest="the newest")


def delivery_not_found(delivery: str) -> DeliveryNotFound:
    """No delivery has this id."""
    return DeliveryNotFound(
        "There is no such delivery.", given=delivery[:100], hint="GET /v1/webhooks/deliveries lists them."
    )


def delivery_under_way(delivery: str) -> DeliveryUnderWay:
    """A replay of what is being sent."""
    return DeliveryUnderWay(
        "This delivery is being sent right now.", given=delivery, hint="Look at it again in a moment."
    )


def secret_exists(secret: str) -> WebhookSecretExists:
    """A first secret where there is one."""
    return WebhookSecretExists(
        "There is a secret already; it was shown when it was made.",
        given=secret,
        hint="'ihvp webhooks secret rotate' makes another, and the one before counts for a while yet.",
    )


def secret_missing() -> WebhookSecretMissing:
    """Nothing to sign with."""
    return WebhookSecretMissing(
        "There is no secret to sign deliveries with, and a receiver could not tell them from anybody's.",
        hint=f"Make one, and give it to the receiver: {CREATE}.",
    )
