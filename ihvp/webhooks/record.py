"""A delivery of a webhook, as the store keeps it and as callers see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from pydantic import BaseModel, ConfigDict, Field

from ihvp.jobs.record import JobRecord

__all__ = ["Delivery", "DeliveryState", "DeliveryTry", "Outbox", "Secret", "ToSend"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class DeliveryState(str, Enum):
    """Whether a delivery has arrived."""

    Pending = "pending"
    Delivered = "delivered"
    Dead = "dead"


class DeliveryTry(_Frozen):
    """How one try went."""

    attempt: int = Field(description="Which try it was, counted over replays.")
    at: datetime = Field(description="When it began, or when its sender was given up.")
    status: int | None = Field(None, description="The HTTP status that the receiver answered.")
    error: str | None = Field(
        None,
        description="Why there is none: timeout, connection_failed, tls_failed, address_not_allowed, no_secret, "
        "invalid_response, sender_stopped, sender_lost, internal_error.",
    )
    seconds: float | None = Field(None, description="How long it took.")


class Delivery(_Frozen):
    """One event of a job on its way to one receiver.

    Attributes:
        id: Also the header ``webhook-id``: the same for all tries.
        occurred_at: When the event happened.
        created_at: Orders deliveries; no two of a tenant share it.
        due_at: When it is tried next; None while it is being sent, and once it has ended.
        attempt: How often it was taken; the fence that the sender's write names.
        round: How many of these were before its present schedule began.
    """

    id: str
    tenant: str
    job_id: str
    type: str
    url: str
    state: DeliveryState
    occurred_at: datetime
    created_at: datetime
    due_at: datetime | None
    ended_at: datetime | None
    attempt: int
    round: int
    sending: bool
    tries: list[DeliveryTry]


class Secret(_Frozen):
    """What deliveries of a tenant are signed with.

    Attributes:
        secret: ``whsec_`` and the key in base64.
        valid_until: None for the newest; those before it are still signed with until then.
    """

    id: str
    secret: str = Field(repr=False)
    created_at: datetime
    valid_until: datetime | None


@dataclass(frozen=True)
class ToSend:
    """A delivery that was given to a sender.

    Attributes:
        delivery: With the attempt that this is.
        job: The job as it was when the event happened.
        secrets: Which to sign with, the newest first; may be none.
    """

    delivery: Delivery
    job: JobRecord
    secrets: list[Secret]


@dataclass(frozen=True)
class Outbox:
    """How the outbox of all tenants stands.

    Attributes:
        due: Deliveries that could be tried now.
        waiting: That wait for a later try.
        sending: That are being sent.
        dead: That nobody tries any more.
        oldest_due_s: For how long the first of those due has been.
        counts: Tries since the store was made, by outcome: delivered, failed, dead, lost.
    """

    due: int
    waiting: int
    sending: int
    dead: int
    oldest_due_s: float
    counts: dict[str, int] = field(default_factory=dict)
