"""The outbox in plain Python: the readable model of the semantics, and an outbox for tests without a server."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ihvp.jobs.record import JobRecord
from ihvp.keyvalue.calls import MICROSECOND, to_microseconds
from ihvp.webhooks import rules
from ihvp.webhooks.record import Delivery, DeliveryState, DeliveryTry, Outbox, Secret, ToSend

__all__ = ["MemoryWebhookStore"]


@dataclass
class _Kept:
    """A delivery, and what no caller sees of it."""

    delivery: Delivery
    job: JobRecord
    lane: str
    lease_until: datetime | None = None
    tries: list[DeliveryTry] = field(default_factory=list)

    def change(self, **changes: object) -> None:
        self.delivery = self.delivery.model_copy(update=changes)

    def note(self, done: DeliveryTry) -> None:
        self.tries = [*self.tries, done][-rules.MOST_TRIES_KEPT :]
        self.change(tries=self.tries)

    def let_go(self) -> None:
        self.lease_until = None
        self.change(sending=False)


class MemoryWebhookStore:
    """``WebhookStore`` within one process; nothing outlives it. Threads may share it.

    Args:
        clock: The store's time, with a time zone.
    """

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._kept: dict[str, _Kept] = {}
        self._secrets: dict[str, list[Secret]] = {}
        self._counts: Counter[str] = Counter()

    def tell(self, job: JobRecord, event_id: str) -> None:
        """Writes the deliveries of a transition that a job has just made; the job store calls it."""
        webhook = job.request.webhook
        if webhook is None:
            return
        with self._lock:
            for name in rules.events_of(job.state):
                if name not in webhook.events:
                    continue
                now = self._clock()
                mine = [k.delivery.created_at for k in self._kept.values() if k.delivery.tenant == job.tenant]
                delivery = Delivery(
                    id=rules.delivery_id(job.id, event_id, name),
                    tenant=job.tenant,
                    job_id=job.id,
                    type=name,
                    url=webhook.url,
                    state=DeliveryState.Pending,
                    occurred_at=now,
                    created_at=max([now, *(at + MICROSECOND for at in mine)]),
                    due_at=now,
                    ended_at=None,
                    attempt=0,
                    round=0,
                    sending=False,
                    tries=[],
                )
                self._kept[delivery.id] = _Kept(delivery, job, f"{job.tenant}@{webhook.host}")

    def claim(self, *, lease_s: float, most: int, most_of_a_lane: int, most_tries: int) -> Sequence[ToSend]:
        """See ``WebhookStore.claim``."""
        with self._lock:
            now = self._clock()
            self._take_back(now, most_tries)
            waiting = [
                k for k in self._kept.values() if _is_waiting(k) and k.delivery.due_at and k.delivery.due_at <= now
            ]
            taken: list[ToSend] = []
            for kept in sorted(waiting, key=lambda k: (k.delivery.due_at, k.delivery.id)):
                busy = sum(k.lane == kept.lane and k.delivery.sending for k in self._kept.values())
                if len(taken) == most or busy >= most_of_a_lane:
                    continue
                kept.lease_until = now + timedelta(seconds=lease_s)
                kept.change(sending=True, due_at=None, attempt=kept.delivery.attempt + 1)
                secrets = list(self.secrets(kept.delivery.tenant))
                taken.append(ToSend(kept.delivery, kept.job, secrets))
            return taken

    def settle(self, delivery_id: str, done: DeliveryTry, *, state: DeliveryState, pause_s: float = 0.0) -> bool:
        """See ``WebhookStore.settle``."""
        with self._lock:
            kept = self._kept.get(delivery_id)
            if kept is None or not kept.delivery.sending or kept.delivery.attempt != done.attempt:
                return False
            kept.let_go()
            kept.note(done)
            if state is DeliveryState.Pending:
                self._counts["failed"] += 1
                kept.change(due_at=self._clock() + timedelta(seconds=pause_s))
            else:
                self._finish(kept, state)
            return True

    def get(self, tenant: str, delivery_id: str) -> Delivery:
        """See ``WebhookStore.get``."""
        with self._lock:
            return self._own(tenant, delivery_id).delivery

    def list(
        self,
        tenant: str,
        *,
        limit: int,
        state: DeliveryState | None = None,
        job_id: str | None = None,
        cursor: str | None = None,
    ) -> tuple[Sequence[Delivery], str | None]:
        """See ``WebhookStore.list``."""
        before = rules.listing_cursor(cursor)
        with self._lock:
            found = [
                delivery
                for delivery in (kept.delivery for kept in self._kept.values())
                if delivery.tenant == tenant
                and state in {None, delivery.state}
                and job_id in {None, delivery.job_id}
                and (before is None or to_microseconds(delivery.created_at) < before)
            ]
        found.sort(key=lambda delivery: delivery.created_at, reverse=True)
        page = found[:limit]
        return page, str(to_microseconds(page[-1].created_at)) if len(found) > limit and page else None

    def replay(self, tenant: str, delivery_id: str) -> Delivery:
        """See ``WebhookStore.replay``."""
        with self._lock:
            kept = self._own(tenant, delivery_id)
            if kept.delivery.sending:
                raise rules.delivery_under_way(delivery_id)
            kept.change(state=DeliveryState.Pending, ended_at=None, round=kept.delivery.attempt, due_at=self._clock())
            return kept.delivery

    def drop(self, ended_before_s: float, limit: int = 100) -> Sequence[str]:
        """See ``WebhookStore.drop``."""
        with self._lock:
            oldest_kept = self._clock() - timedelta(seconds=ended_before_s)
            ended = [(k.delivery.ended_at, k.delivery.id) for k in self._kept.values() if k.delivery.ended_at]
            old = [delivery_id for at, delivery_id in sorted(ended) if at < oldest_kept][:limit]
            for delivery_id in old:
                del self._kept[delivery_id]
            return old

    def overview(self) -> Outbox:
        """See ``WebhookStore.overview``."""
        with self._lock:
            now = self._clock()
            times = [k.delivery.due_at for k in self._kept.values() if _is_waiting(k) and k.delivery.due_at]
            due = [at for at in times if at <= now]
            return Outbox(
                due=len(due),
                waiting=len(times) - len(due),
                sending=sum(k.delivery.sending for k in self._kept.values()),
                dead=sum(k.delivery.state is DeliveryState.Dead for k in self._kept.values()),
                oldest_due_s=(now - min(due)).total_seconds() if due else 0.0,
                counts=dict(self._counts),
            )

    def secrets(self, tenant: str) -> Sequence[Secret]:
        """See ``WebhookStore.secrets``."""
        with self._lock:
            now = self._clock()
            mine = self._secrets.get(tenant, [])
            return [secret for secret in mine if secret.valid_until is None or secret.valid_until > now]

    def create_secret(self, tenant: str) -> Sequence[Secret]:
        """See ``WebhookStore.create_secret``."""
        with self._lock:
            before = self.secrets(tenant)
            if before:
                raise rules.secret_exists(before[0].id)
            return self._add_secret(tenant, before, self._clock())

    def rotate_secret(self, tenant: str, old_valid_s: float) -> Sequence[Secret]:
        """See ``WebhookStore.rotate_secret``."""
        with self._lock:
            before = self.secrets(tenant)
            if not before:
                raise rules.secret_missing()
            return self._add_secret(tenant, before, self._clock() + timedelta(seconds=old_valid_s))

    def _add_secret(self, tenant: str, before: Sequence[Secret], ends: datetime) -> Sequence[Secret]:
        name, secret = rules.new_secret()
        created = max([self._clock(), *(each.created_at + MICROSECOND for each in before)])
        ending = [
            each.model_copy(update={"valid_until": min(each.valid_until or ends, ends)})
            for each in before[: rules.MOST_SECRETS - 1]
        ]
        new = Secret(id=name, secret=secret, created_at=created, valid_until=None)
        self._secrets[tenant] = [new, *ending]
        return self.secrets(tenant)

    def _take_back(self, now: datetime, most_tries: int) -> None:
        for kept in self._kept.values():
            if kept.lease_until is None or kept.lease_until > now:
                continue
            kept.let_go()
            kept.note(DeliveryTry(attempt=kept.delivery.attempt, at=now, error="sender_lost"))
            self._counts["lost"] += 1
            if kept.delivery.attempt - kept.delivery.round >= most_tries:
                self._finish(kept, DeliveryState.Dead)
            else:
                kept.change(due_at=now)

    def _finish(self, kept: _Kept, state: DeliveryState) -> None:
        self._counts[state.value] += 1
        kept.change(state=state, due_at=None, ended_at=self._clock())

    def _own(self, tenant: str, delivery_id: str) -> _Kept:
        kept = self._kept.get(delivery_id)
        if kept is None or kept.delivery.tenant != tenant:
            raise rules.delivery_not_found(delivery_id)
        return kept


def _is_waiting(kept: _Kept) -> bool:
    return kept.delivery.state is DeliveryState.Pending and not kept.delivery.sending
