"""What a submission says about its webhook."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ihvp.errors import InvalidWebhook

__all__ = ["WebhookEvent", "WebhookSpec", "parse_url", "webhook_fields"]

LONGEST_URL: Final = 2048
SCHEMES: Final = {"https": 443, "http": 80}


class WebhookEvent(str, Enum):
    """What a webhook can be told of."""

    Started = "job.started"
    Finished = "job.finished"
    Succeeded = "job.succeeded"
    Failed = "job.failed"
    Cancelled = "job.cancelled"
    Expired = "job.expired"


def parse_url(url: str) -> SplitResult:
    """The parts of a webhook's URL.

    Raises:
        InvalidWebhook: It is none that a delivery can go to.
    """
    if len(url) > LONGEST_URL:
        raise _refusal(f"a webhook's URL has at most {LONGEST_URL} characters", f"{len(url)} characters")
    if not url.isascii() or not url.isprintable() or any(mark in url for mark in ' \\"<>^`{|}'):
        raise _refusal("a webhook's URL is plain ASCII, other characters percent-encoded or in punycode", url[:200])
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _refusal("this is no URL", url[:200]) from None
    if parts.scheme not in SCHEMES:
        raise _refusal("a webhook's URL begins with https://", url[:200])
    if not parts.hostname or not _is_host(parts):
        raise _refusal("a webhook's URL names a host", url[:200])
    if "@" in parts.netloc:
        # Not shown: it may hold a password.
        raise _refusal("a webhook's URL holds no user and no password", f"user information before {parts.hostname}")
    if "#" in url:
        raise _refusal("a webhook's URL has no fragment (#…): it would never be sent", url[:200])
    if port == 0 or parts.netloc.endswith(":"):
        raise _refusal("a webhook's port is a number from 1 to 65535", url[:200])
    return parts


def _is_host(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    if "[" in parts.netloc:
        return True  # urlsplit has looked at the address
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(0 < len(label) <= 63 and _is_label(label) for label in labels)


def _is_label(label: str) -> bool:
    return all(character.isalnum() or character in "-_" for character in label)


def _refusal(message: str, given: str) -> InvalidWebhook:
    return InvalidWebhook(
        f"{message[0].upper()}{message[1:]}.", given=given, allowed="https://<host>[:<port>]/<path>[?<query>]"
    )


def _checked_url(url: str) -> str:
    parse_url(url)
    return url


def _each_once(events: list[WebhookEvent]) -> list[WebhookEvent]:
    return list(dict.fromkeys(events))


class WebhookSpec(BaseModel):
    """Where to tell about a job, and what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[
        str,
        AfterValidator(_checked_url),
        Field(
            description="Where deliveries are sent: https, without user information or fragment. http and private "
            "addresses need the operator's word (IHVP_WEBHOOK_ALLOWED_HOSTS).",
            json_schema_extra={"format": "uri", "maxLength": LONGEST_URL, "pattern": "^https?://"},
            examples=["https://platform.example/hooks/ihvp"],
        ),
    ]
    events: Annotated[list[WebhookEvent], AfterValidator(_each_once)] = Field(
        [WebhookEvent.Finished],
        min_length=1,
        max_length=16,
        description="job.started comes at each attempt; job.finished however a job ends, the others if it ends so.",
    )

    @property
    def host(self) -> str:
        """Host and port, as deliveries share the sender's time."""
        parts = parse_url(self.url)
        return f"{parts.hostname}:{parts.port or SCHEMES[parts.scheme]}"


def webhook_fields(webhook: WebhookSpec | None) -> tuple[str, str, str]:
    """Its events as JSON, its URL and its host, for the scripts of the store; empty where there is no webhook."""
    return ("", "", "") if webhook is None else (json.dumps(webhook.events), webhook.url, webhook.host)
