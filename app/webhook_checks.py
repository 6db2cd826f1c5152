"""What of a webhook can be refused when it is submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ihvp.addresses import AddressRules
from ihvp.errors import InvalidWebhook
from ihvp.webhooks.rules import secret_missing
from ihvp.webhooks.spec import parse_url

if TYPE_CHECKING:
    from app.services import Services
    from ihvp.webhooks.spec import WebhookSpec

__all__ = ["check_webhook"]


async def check_webhook(services: Services, webhook: WebhookSpec | None) -> None:
    """Refuses a webhook whose deliveries could never be sent, or never be believed.

    Names are not looked up here: what they stand for may change until a delivery is sent, and is looked at then.

    Raises:
        InvalidWebhook: It is http, and the operator has not listed the host.
        AddressNotAllowed: The host is an address that the service does not connect to.
        WebhookSecretMissing: There is no secret to sign with.
    """
    if webhook is None:
        return
    rules = AddressRules(services.settings.webhook_allowed_hosts)
    parts = parse_url(webhook.url)
    host = parts.hostname or ""
    rules.check_literal(host)
    if parts.scheme == "http" and not rules.lists(host):
        raise InvalidWebhook(
            "Deliveries go over https: anybody on the way could read what goes over http.",
            given=webhook.url[:200],
            allowed="https://…",
            hint="An operator can list hosts for http in IHVP_WEBHOOK_ALLOWED_HOSTS.",
        )
    if not await services.webhooks.secrets(services.tenant):
        raise secret_missing()
