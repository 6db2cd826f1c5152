"""What a receiver gets: the body of a delivery, and the headers that prove whose it is (Standard Webhooks)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from standardwebhooks import Webhook

from ihvp import __version__
from ihvp.webhooks.record import Secret, ToSend
from ihvp.wire import JobView

__all__ = ["body_of", "headers_of"]

USER_AGENT: Final = f"ihvp/{__version__} (webhooks)"


def body_of(sent: ToSend) -> str:
    """The JSON document: the same for all tries."""
    occurred = sent.delivery.occurred_at.isoformat().replace("+00:00", "Z")
    data = JobView.of(sent.job, None).model_dump(mode="json")
    return json.dumps({"type": sent.delivery.type, "timestamp": occurred, "data": data}, separators=(",", ":"))


def headers_of(delivery_id: str, body: str, at: datetime, secrets: Sequence[Secret]) -> dict[str, str]:
    """The headers of one try.

    Args:
        delivery_id: Stays the same over tries, so that a receiver can tell a repeat.
        body: What is signed beside it.
        at: When the try is made; receivers refuse old ones.
        secrets: One signature for each: while a secret is being replaced, receivers may know either.
    """
    signatures = [Webhook(each.secret).sign(delivery_id, at, body) for each in secrets]
    return {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "webhook-id": delivery_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
