"""Every operation of the outbox as a call to the server; the meaning is in the Lua files, the I/O elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ihvp.jobs.job_answers import job_record
from ihvp.keyvalue.calls import Call, from_microseconds, hash_fields, microseconds, to_microseconds
from ihvp.webhooks import rules
from ihvp.webhooks.record import Delivery, DeliveryState, DeliveryTry, Outbox, Secret, ToSend

__all__ = ["WebhookCalls"]

Listing = tuple[Sequence[Delivery], str | None]
_OUTCOME = {DeliveryState.Delivered: "delivered", DeliveryState.Dead: "dead", DeliveryState.Pending: "failed"}


class WebhookCalls:
    """Builds the calls."""

    def claim(self, lease_s: float, most: int, most_of_a_lane: int, most_tries: int) -> Call[Sequence[ToSend]]:
        """``WebhookStore.claim``."""
        return Call("claim", (microseconds(lease_s), most, most_of_a_lane, most_tries), _claimed)

    def settle(self, delivery_id: str, done: DeliveryTry, state: DeliveryState, pause_s: float) -> Call[bool]:
        """``WebhookStore.settle``."""
        entry = {**done.model_dump(exclude_none=True), "at": to_microseconds(done.at)}
        args = (delivery_id, done.attempt, json.dumps(entry), _OUTCOME[state], microseconds(pause_s))
        return Call("settle", args, lambda answer: bool(answer[0] == "ok"))

    def get(self, tenant: str, delivery_id: str) -> Call[Delivery]:
        """``WebhookStore.get``."""
        return Call("get", (tenant, delivery_id), _one(delivery_id))

    def list(
        self, tenant: str, limit: int, state: DeliveryState | None, job_id: str | None, cursor: str | None
    ) -> Call[Listing]:
        """``WebhookStore.list``."""
        before = rules.listing_cursor(cursor)
        args = (
            tenant,
            limit,
            max(rules.SCAN_BOUND, limit),
            "" if state is None else state.value,
            job_id or "",
            "" if before is None else before,
        )
        return Call("list", args, _page)

    def replay(self, tenant: str, delivery_id: str) -> Call[Delivery]:
        """``WebhookStore.replay``."""
        return Call("replay", (tenant, delivery_id), _one(delivery_id))

    def drop(self, ended_before_s: float, limit: int) -> Call[Sequence[str]]:
        """``WebhookStore.drop``."""
        return Call("drop", (microseconds(ended_before_s), limit), lambda answer: list(answer[1:]))

    def overview(self) -> Call[Outbox]:
        """``WebhookStore.overview``."""
        return Call("overview", (), _overview)

    def secrets(self, tenant: str) -> Call[Sequence[Secret]]:
        """``WebhookStore.secrets``."""
        return Call("secrets", (tenant,), _secrets)

    def create_secret(self, tenant: str) -> Call[Sequence[Secret]]:
        """``WebhookStore.create_secret``."""
        return Call("add_secret", (tenant, *rules.new_secret(), "create", 0, rules.MOST_SECRETS), _secrets)

    def rotate_secret(self, tenant: str, old_valid_s: float) -> Call[Sequence[Secret]]:
        """``WebhookStore.rotate_secret``."""
        args = (tenant, *rules.new_secret(), "rotate", microseconds(old_valid_s), rules.MOST_SECRETS)
        return Call("add_secret", args, _secrets)


def _delivery(record: Any) -> Delivery:
    delivery_id, flat, tries, sending = record
    fields = hash_fields(flat)

    def moment(name: str) -> Any:
        return from_microseconds(int(fields[name])) if name in fields else None

    return Delivery(
        id=delivery_id,
        tenant=fields["tenant"],
        job_id=fields["job"],
        type=fields["type"],
        url=fields["url"],
        state=DeliveryState(fields["state"]),
        occurred_at=moment("at"),
        created_at=moment("created"),
        due_at=None if sending else moment("due"),
        ended_at=moment("ended"),
        attempt=int(fields["attempt"]),
        round=int(fields["round"]),
        sending=bool(sending),
        tries=[_try(text) for text in tries],
    )


def _try(text: str) -> DeliveryTry:
    entry = json.loads(text)
    return DeliveryTry(**{**entry, "at": from_microseconds(int(entry["at"]))})


def _claimed(answer: Any) -> Sequence[ToSend]:
    found = []
    for record, secrets in answer[1:]:
        delivery = _delivery(record)
        flat = json.loads(hash_fields(record[1])["record"])
        found.append(ToSend(delivery, job_record(delivery.job_id, flat), [_secret(text) for text in secrets]))
    return found


def _one(delivery_id: str) -> Callable[[Any], Delivery]:
    def read(answer: Any) -> Delivery:
        kind, *rest = answer
        if kind == "not_found":
            raise rules.delivery_not_found(delivery_id)
        if kind == "under_way":
            raise rules.delivery_under_way(delivery_id)
        return _delivery(rest[0])

    return read


def _page(answer: Any) -> Listing:
    _, cursor, *records = answer
    return [_delivery(record) for record in records], cursor or None


def _overview(answer: Any) -> Outbox:
    due, waiting, sending, dead, oldest, flat = answer
    counts = {name: int(count) for name, count in hash_fields(flat).items() if name != "dead_now"}
    return Outbox(due, waiting, sending, dead, int(oldest) / 1e6, counts)


def _secret(text: str) -> Secret:
    entry = json.loads(text)
    until = entry.get("until")
    return Secret(
        id=entry["id"],
        secret=entry["secret"],
        created_at=from_microseconds(int(entry["created"])),
        valid_until=None if until is None else from_microseconds(int(until)),
    )


def _secrets(answer: Any) -> Sequence[Secret]:
    kind, *rest = answer
    if kind == "exists":
        raise rules.secret_exists(rest[0])
    if kind == "none":
        raise rules.secret_missing()
    return [_secret(text) for text in rest]
