"""Bodies are bounded before they are read: JSON by one limit, blobs by another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from app.errors import refusal
from ihvp.errors import BodyTooLarge, UnsupportedMediaType

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ihvp.settings import Settings

__all__ = ["DRAINED_BYTES", "BodyLimit", "drain"]

BLOBS: Final = ("/v1/blobs/", "/v1/uploads")
DRAINED_BYTES: Final = 64 * 1024 * 1024


class BodyLimit:
    """ASGI middleware that ends the reading of a body past its limit.

    Args:
        app: What it wraps.
        settings: Has the limits.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD"}:
            await self.app(scope, receive, send)
            return
        blob = scope["path"].startswith(BLOBS)
        limit = self.settings.max_blob_bytes if blob else self.settings.max_body_bytes
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "")
        size = int(announced) if announced.isdecimal() else 0
        patient = headers.get("expect", "").lower() == "100-continue"
        seen = 0

        coding = headers.get("content-encoding", "identity").strip().lower()

        async def limited() -> Message:
            nonlocal seen
            if coding != "identity":
                await drain(receive)
                raise _coded(coding)
            if size > limit:
                # A caller that waits for leave to send is answered before it does.
                if not patient:
                    await drain(receive)
                raise _refusal(limit, size, blob=blob)
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                # Behind the last message there is none to wait for but the caller's leaving.
                if message.get("more_body"):
                    await drain(receive)
                raise _refusal(limit, None, blob=blob)
            return message

        await self.app(scope, limited, send)


async def drain(receive: Receive) -> None:
    """Reads a body that nobody wants, up to a bound.

    Closing a socket with unread bytes resets it, and the caller would never see the answer.
    """
    left = DRAINED_BYTES
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if not message.get("more_body"):
            return


def _coded(coding: str) -> HTTPException:
    # What is packed small may be as large as it likes once it is unpacked: no bound above would hold.
    error = UnsupportedMediaType(
        "Bodies are not unpacked here.",
        given=f"Content-Encoding: {coding[:50]}",
        allowed="no Content-Encoding",
        hint="Send the bytes as they are.",
    )
    return refusal(error, {"Accept-Encoding": "identity"})


def _refusal(limit: int, size: int | None, *, blob: bool) -> HTTPException:
    error = BodyTooLarge(
        "The body exceeds the limit.",
        given=f"{size} bytes" if size is not None else f"more than {limit} bytes",
        allowed=f"{limit} bytes",
        hint=(
            "The operator sets IHVP_MAX_BLOB_BYTES."
            if blob
            else "Upload large tensors as blobs (PUT /v1/blobs/sha256:<hex>) and refer to them."
        ),
    )
    return refusal(error)
