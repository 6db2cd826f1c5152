"""What the client asks about webhooks: deliveries, and the secrets that sign them."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from ihvp.client.connection import Connection
from ihvp.webhooks.record import DeliveryState
from ihvp.wire import DeliveryPage, DeliveryView, SecretList, SecretView

__all__ = ["Webhooks"]

DELIVERIES = "/v1/webhooks/deliveries"
SECRETS = "/v1/webhooks/secrets"


class Webhooks:
    """``Client.webhooks``.

    Args:
        link: The client's connection.
    """

    def __init__(self, link: Connection) -> None:
        self._link = link

    def deliveries(
        self, *, state: str | DeliveryState | None = None, job_id: str | None = None
    ) -> Iterator[DeliveryView]:
        """Deliveries, newest first, fetched page by page.

        Args:
            state: ``"pending"``, ``"delivered"`` or ``"dead"``: the dead-letter list.
            job_id: Only those of this job.
        """
        query = {"state": None if state is None else DeliveryState(state).value, "job": job_id, "limit": 100}
        for page in self._link.pages(DELIVERIES, DeliveryPage, query):
            yield from page.deliveries

    def delivery(self, delivery_id: str) -> DeliveryView:
        """A delivery and its tries.

        Raises:
            DeliveryNotFound: There is none.
        """
        answer = self._link.send("GET", f"{DELIVERIES}/{quote(delivery_id, safe='')}")
        return DeliveryView.model_validate_json(answer.content)

    def replay(self, delivery_id: str) -> DeliveryView:
        """Has a delivery sent again, or at once, by a schedule that begins anew.

        Raises:
            DeliveryNotFound: There is none.
            DeliveryUnderWay: It is being sent right now.
        """
        answer = self._link.send("POST", f"{DELIVERIES}/{quote(delivery_id, safe='')}/replay")
        return DeliveryView.model_validate_json(answer.content)

    def secrets(self) -> list[SecretView]:
        """The secrets that sign deliveries now, the newest first, without the secrets themselves."""
        return SecretList.model_validate_json(self._link.send("GET", SECRETS).content).secrets

    def create_secret(self) -> SecretView:
        """Makes the first secret; ``secret`` of the answer is shown this once.

        Raises:
            WebhookSecretExists: There is one.
        """
        return SecretView.model_validate_json(self._link.send("POST", SECRETS).content)

    def rotate_secret(self, old_valid_s: float | None = None) -> list[SecretView]:
        """Makes another secret; that of the first entry is shown this once.

        Args:
            old_valid_s: Seconds for which the ones before sign too; by default ``IHVP_WEBHOOK_OVERLAP_S`` of the
                service.

        Raises:
            WebhookSecretMissing: There is none yet.
        """
        answer = self._link.send("POST", f"{SECRETS}/rotate", params={"old_valid_s": old_valid_s})
        return SecretList.model_validate_json(answer.content).secrets
