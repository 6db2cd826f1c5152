"""Serves bytes that lie in a file, whole or by range (RFC 9110 section 14), in flat memory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

import anyio.to_thread
from starlette.responses import Response, StreamingResponse

from app.errors import refusal
from app.etags import matches
from ihvp.errors import RangeNotSatisfiable

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

__all__ = ["ByteSource", "serve_bytes"]

CHUNK: Final = 256 * 1024
ONE_RANGE: Final = re.compile(r"bytes=\s*(\d{0,20})-(\d{0,20})\s*")


@dataclass(frozen=True)
class ByteSource:
    """A stretch of a file, with some bytes set before it.

    Attributes:
        path: The file.
        offset: Where the stretch begins in it.
        length: How long it is.
        prefix: Bytes that come first: the header of another format over the same numbers.
    """

    path: Path
    offset: int
    length: int
    prefix: bytes = b""

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self.prefix) + self.length

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from ``start`` up to ``stop``, in pieces."""
        if start < len(self.prefix):
            yield self.prefix[start:stop]
        position = max(start, len(self.prefix)) - len(self.prefix)
        end = stop - len(self.prefix)
        if position >= end:
            return
        file = await anyio.to_thread.run_sync(self._open_at, position)
        try:
            while position < end:
                chunk = await anyio.to_thread.run_sync(file.read, min(CHUNK, end - position))
                if not chunk:
                    raise EOFError(f"{self.path} is shorter than it was")
                position += len(chunk)
                yield chunk
        finally:
            file.close()

    def _open_at(self, position: int) -> BinaryIO:
        file = self.path.open("rb")
        file.seek(self.offset + position)
        return file


def serve_bytes(
    request: Request, source: ByteSource, *, etag: str, media_type: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer to a GET or HEAD: 200, 206 for a range, or 304.

    Several ranges at once, and what is not a byte range, are answered with the whole, as the RFC allows.

    Raises:
        HTTPException: ``range_not_satisfiable``: the range begins past the end.
    """
    sent = {"ETag": etag, "Accept-Ranges": "bytes", **(headers or {})}
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=sent)
    start, stop, status = 0, source.size, 200
    condition = request.headers.get("if-range")
    if "range" in request.headers and (condition is None or condition.strip() == etag):
        wanted = _parse(request.headers["range"], source.size)
        if wanted is not None:
            start, stop = wanted
            status = 206
            sent["Content-Range"] = f"bytes {start}-{stop - 1}/{source.size}"
    sent["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=sent, media_type=media_type)
    return StreamingResponse(source.read(start, stop), status_code=status, headers=sent, media_type=media_type)


def _parse(text: str, size: int) -> tuple[int, int] | None:
    match = ONE_RANGE.fullmatch(text)
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        start = int(match[1])
        stop = min(int(match[2]) + 1, size) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
    else:
        start, stop = max(0, size - int(match[2])), size
    if start >= stop:
        error = RangeNotSatisfiable(
            "The range lies outside the bytes.", given=text[:100], allowed=f"bytes 0 to {size - 1}"
        )
        raise refusal(error, {"Content-Range": f"bytes */{size}"})
    return start, stop
