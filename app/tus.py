"""The tus 1.0 protocol, as far as it is headers: its version, what is offered, metadata and checksums."""

from __future__ import annotations

import base64
import binascii
import re
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import Headers, MutableHeaders

from app.body_limit import drain
from app.errors import problem_response
from ihvp.blobs.uploads import CHECKSUMS, Checksum
from ihvp.errors import InvalidHeader, InvalidReference, UnsupportedChecksum, UnsupportedTusVersion
from ihvp.references import parse_digest

if TYPE_CHECKING:
    from datetime import datetime

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["EXTENSIONS", "PART_TYPE", "VERSION", "TusProtocol", "digest_in", "http_date", "parse_checksum"]

VERSION: Final = "1.0.0"
EXTENSIONS: Final = ("creation", "creation-with-upload", "expiration", "checksum", "termination")
PART_TYPE: Final = "application/offset+octet-stream"
PATH: Final = "/v1/uploads"
OVERRIDABLE: Final = frozenset({"PATCH", "DELETE", "HEAD"})
PAIR: Final = re.compile(r"\s*([!-+\--~]{1,128})(?: +([A-Za-z0-9+/]*={0,2}))?\s*")
DIGEST_SIZES: Final = {"sha1": 20, "sha256": 32}


class TusProtocol:
    """ASGI middleware that holds requests for uploads to the protocol's version, and puts it on every answer.

    Args:
        app: What it wraps.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http" or not (scope["path"] == PATH or scope["path"].startswith(f"{PATH}/")):
            await self.app(scope, receive, send)
            return

        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Tus-Resumable"] = VERSION
            await send(message)

        headers = Headers(scope=scope)
        # For callers behind proxies that let through nothing but GET and POST.
        override = headers.get("x-http-method-override", "").upper()
        if scope["method"] == "POST" and override in OVERRIDABLE:
            scope = {**scope, "method": override}
        spoken = headers.get("tus-resumable")
        versioned = {"POST"} if scope["path"] == PATH else OVERRIDABLE
        if scope["method"] in versioned and spoken != VERSION:
            await drain(receive)
            await _unsupported(spoken)(scope, receive, send_with_version)
            return
        await self.app(scope, receive, send_with_version)


def _unsupported(spoken: str | None) -> Any:
    error = UnsupportedTusVersion(
        "Uploads speak tus 1.0.",
        given="no Tus-Resumable header" if spoken is None else f"Tus-Resumable: {spoken[:50]}",
        allowed=f"Tus-Resumable: {VERSION}",
        hint="OPTIONS /v1/uploads tells what is offered. Small blobs need no protocol: PUT /v1/blobs/sha256:<hex>.",
    )
    return problem_response(error, headers={"Tus-Version": VERSION})


def digest_in(metadata: str) -> str:
    """The digest that an ``Upload-Metadata`` header announces under the key ``sha256``.

    Raises:
        InvalidHeader: It is not written as tus has it, or has no such key.
        InvalidReference: What it has is no digest.
    """
    found: dict[str, bytes] = {}
    for pair in metadata.split(","):
        match = PAIR.fullmatch(pair)
        if match is None or match[1] in found:
            raise _bad_metadata(pair)
        try:
            found[match[1]] = base64.b64decode(match[2] or "", validate=True)
        except binascii.Error:
            raise _bad_metadata(pair) from None
    if "sha256" not in found:
        raise InvalidHeader(
            "The upload does not say what it will hash to.",
            given=f"Upload-Metadata with {', '.join(sorted(found))}"[:200],
            allowed="a key sha256 whose value is the base64 of the 64 hexadecimal digits that sha256sum prints",
            hint="Blobs are named by their digest, and bytes that have another one are refused.",
        )
    text = found["sha256"].decode("ascii", "replace")
    try:
        return parse_digest(text if text.startswith("sha256:") else f"sha256:{text}")
    except InvalidReference as error:
        raise InvalidReference(
            "The key sha256 of Upload-Metadata holds no digest.",
            given=text[:100],
            allowed=error.allowed,
            hint=error.hint,
        ) from None


def _bad_metadata(pair: str) -> InvalidHeader:
    return InvalidHeader(
        "The header Upload-Metadata is not written as tus has it.",
        given=pair[:100],
        allowed="pairs of a key and a base64 value, a space between the two, a comma between pairs, no key twice",
    )


def parse_checksum(header: str | None) -> Checksum | None:
    """What an ``Upload-Checksum`` header says; None without one.

    Raises:
        UnsupportedChecksum: It is not written as tus has it, or its algorithm is not offered.
    """
    if header is None:
        return None
    algorithm, _, encoded = header.strip().partition(" ")
    try:
        value = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if len(value) != DIGEST_SIZES.get(algorithm):
        raise UnsupportedChecksum(
            "The checksum cannot be used.",
            given=f"Upload-Checksum: {header[:100]}",
            allowed=f"{' or '.join(CHECKSUMS)}, a space, and the base64 of the hash's bytes",
        )
    return Checksum(algorithm, value)


def http_date(moment: datetime) -> str:
    """A time as HTTP headers have it."""
    return format_datetime(moment, usegmt=True)
