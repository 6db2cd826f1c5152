"""The contract of the outbox: every event that a job's webhook asks for becomes one delivery, tried until it arrives.

Promises, held by one contract suite over all adapters:

* A delivery is written by the very transition that it tells of, so none is lost and none is made twice.
* Until it is delivered or dead, it is due at some time. Who takes it has it under a lease; if the taker dies, it is
  due again when the lease has run out. So each is tried at least once, and receivers tell repeats by its id.
* A tenant sees and moves its own deliveries and secrets only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ihvp.webhooks.record import Delivery, DeliveryState, DeliveryTry, Outbox, Secret, ToSend

__all__ = ["WebhookStore"]


class WebhookStore(Protocol):
    """Where deliveries live. All times are the store's own; every method may raise ``StoreUnavailable``."""

    def claim(self, *, lease_s: float, most: int, most_of_a_lane: int, most_tries: int) -> Sequence[ToSend]:
        """Takes due deliveries, those of each host in the order of their times.

        Args:
            lease_s: After this time they are due again, unless they were settled.
            most: How many at most.
            most_of_a_lane: How many of one tenant to one host may be under way at once, whoever has taken them.
            most_tries: A delivery whose sender died is dead once it was taken so often since its schedule began.
        """

    def settle(self, delivery_id: str, done: DeliveryTry, *, state: DeliveryState, pause_s: float = 0.0) -> bool:
        """Notes how a try went.

        Args:
            delivery_id: What was tried.
            done: How it went, with the attempt that ``claim`` gave.
            state: Delivered, dead, or pending: to be tried again.
            pause_s: When, from now.

        Returns:
            False where the delivery is no longer the sender's: its lease had run out. Nothing is changed then.
        """

    def get(self, tenant: str, delivery_id: str) -> Delivery:
        """The delivery.

        Raises:
            DeliveryNotFound: The tenant has none of this id.
        """

    def list(
        self,
        tenant: str,
        *,
        limit: int,
        state: DeliveryState | None = None,
        job_id: str | None = None,
        cursor: str | None = None,
    ) -> tuple[Sequence[Delivery], str | None]:
        """Deliveries, newest first, and the cursor of the next page."""

    def replay(self, tenant: str, delivery_id: str) -> Delivery:
        """Makes a delivery due now, whatever its state, with a schedule that begins anew.

        Raises:
            DeliveryNotFound: The tenant has none of this id.
            DeliveryUnderWay: It is being sent right now.
        """

    def drop(self, ended_before_s: float, limit: int = 100) -> Sequence[str]:
        """Forgets deliveries that ended longer ago than this many seconds."""

    def overview(self) -> Outbox:
        """How the outbox stands, over all tenants."""

    def secrets(self, tenant: str) -> Sequence[Secret]:
        """The secrets that deliveries are signed with now, the newest first."""

    def create_secret(self, tenant: str) -> Sequence[Secret]:
        """Draws the first secret; returns it.

        Raises:
            WebhookSecretExists: There is one.
        """

    def rotate_secret(self, tenant: str, old_valid_s: float) -> Sequence[Secret]:
        """Draws another secret; returns all that count, the newest first.

        Args:
            tenant: Whose.
            old_valid_s: For how long deliveries are signed with the ones before too.

        Raises:
            WebhookSecretMissing: There is none to take the place of.
        """
