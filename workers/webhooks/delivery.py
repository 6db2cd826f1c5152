"""One try of a delivery: an HTTP request that ends in time, follows nothing, and reads next to nothing."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import httpx
import structlog

from ihvp.errors import AddressNotAllowed
from ihvp.webhooks.record import DeliveryState, DeliveryTry, ToSend
from ihvp.webhooks.schedule import next_pause, retry_after
from workers.webhooks.message import body_of, headers_of

__all__ = ["Outcome", "Poster"]

_log = structlog.get_logger(__name__)

_DRAINED_BYTES: Final = 64 * 1024
_DRAIN_S: Final = 1.0
"""So much of an answer's body is read, and thrown away, for a receiver that does not like to be cut off."""


@dataclass(frozen=True)
class Outcome:
    """How a try went, and what follows.

    Attributes:
        done: For the delivery's log.
        state: Delivered, dead, or pending: it is tried again.
        pause_s: In how many seconds.
    """

    done: DeliveryTry
    state: DeliveryState
    pause_s: float = 0.0


class Poster:
    """Makes tries.

    Args:
        client: Follows no redirects; its transport admits public addresses only.
        timeout_s: Longest time of a try, from the lookup of the name to the answer's status.
        pauses_s: Between tries.
    """

    def __init__(self, client: httpx.AsyncClient, timeout_s: float, pauses_s: tuple[float, ...]) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._pauses_s = pauses_s

    async def post(self, sent: ToSend) -> Outcome:
        """Sends a delivery once, whatever comes of it."""
        at, began = datetime.now(UTC), time.monotonic()
        status: int | None = None
        error: str | None = None
        asked_s: float | None = None
        try:
            if not sent.secrets:
                error = "no_secret"
            else:
                async with asyncio.timeout(self._timeout_s):
                    status, asked_s = await self._request(sent, at)
        except TimeoutError:
            error = "timeout"
        except AddressNotAllowed:
            error = "address_not_allowed"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as fault:
            error = _kind(fault)
        except Exception:
            _log.exception("delivery_not_tried", delivery_id=sent.delivery.id)
            error = "internal_error"
        done = DeliveryTry(
            attempt=sent.delivery.attempt,
            at=at,
            status=status,
            error=error,
            seconds=round(time.monotonic() - began, 4),
        )
        return self._judge(sent, done, asked_s)

    async def _request(self, sent: ToSend, at: datetime) -> tuple[int, float | None]:
        body = body_of(sent)
        headers = headers_of(sent.delivery.id, body, at, sent.secrets)
        async with self._client.stream("POST", sent.delivery.url, content=body.encode(), headers=headers) as response:
            # What was answered stands, however the rest of the answer goes.
            with suppress(TimeoutError, httpx.HTTPError):
                async with asyncio.timeout(min(_DRAIN_S, self._timeout_s)):
                    seen = 0
                    async for part in response.aiter_raw():
                        seen += len(part)
                        if seen > _DRAINED_BYTES:
                            break
            return response.status_code, retry_after(response.headers.get("retry-after"), datetime.now(UTC))

    def _judge(self, sent: ToSend, done: DeliveryTry, asked_s: float | None) -> Outcome:
        if done.status is not None and HTTPStatus(200) <= done.status < HTTPStatus(300):
            return Outcome(done, DeliveryState.Delivered)
        if done.status == HTTPStatus.GONE:
            return Outcome(done, DeliveryState.Dead)
        pause_s = next_pause(self._pauses_s, sent.delivery.attempt - sent.delivery.round, asked_s)
        if pause_s is None:
            return Outcome(done, DeliveryState.Dead)
        return Outcome(done, DeliveryState.Pending, pause_s)


def _kind(fault: Exception) -> str:
    chain: BaseException | None = fault
    while chain is not None:
        if isinstance(chain, ssl.SSLError):
            return "tls_failed"
        chain = chain.__cause__ or chain.__context__
    if isinstance(fault, httpx.TimeoutException):
        return "timeout"
    if isinstance(fault, httpx.RemoteProtocolError | httpx.DecodingError):
        return "invalid_response"
    return "connection_failed"
