"""Sends blobs: small ones whole; large ones in parts, by tus 1.0, so that a line that drops costs little."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from ihvp.client.connection import Connection
from ihvp.client.uploads import Upload
from ihvp.errors import Gone, NotFound, OffsetMismatch, ServiceUnreachable, TooManyRequests, Unavailable

__all__ = ["Progress", "send_blob"]

VERSION: Final = {"Tus-Resumable": "1.0.0"}
PART_TYPE: Final = "application/offset+octet-stream"
UPLOADS: Final = "/v1/uploads"
# Below this size, sending a blob costs less than asking whether it is there.
ASK_FIRST_BYTES: Final = 1 << 20
# From this size on, resuming is worth two further requests.
IN_PARTS_BYTES: Final = 16 << 20
# The service reads at least as much of a body that it refuses: a larger one it would cut off, and with it the reason.
PART_BYTES: Final = 48 << 20
HASHED_A_SECOND: Final = 100e6
"""Bytes, at the least: an answer to the last part waits until the service has read the whole once more."""

Progress = Callable[[int, int], None]
"""Is told how many bytes were sent, and how many there are; the first may fall when a line drops."""


def send_blob(link: Connection, upload: Upload, *, retry_s: float, progress: Progress | None = None) -> None:
    """Uploads what is not there already, and goes on by itself where a connection broke.

    Args:
        link: The service.
        upload: What to send.
        retry_s: How long it is tried again without a byte getting through.
        progress: Is told of each piece, where the upload goes in parts.

    Raises:
        DigestMismatch: The bytes have changed since they were hashed.
        ServiceUnreachable: Nothing gets through any more.
        IhvpError: What the service refuses.
    """
    path = f"/v1/blobs/{upload.digest}"
    if upload.size >= ASK_FIRST_BYTES and _is_there(link, path):
        return
    if upload.size < IN_PARTS_BYTES:
        link.send("PUT", path, body=upload.chunks, headers={"Content-Length": str(upload.size)})
    else:
        _Sending(link, upload, retry_s, progress).run()


def _is_there(link: Connection, path: str) -> bool:
    # An answer to HEAD has no body, and so no code.
    with suppress(NotFound):
        link.send("HEAD", path)
        return True
    return False


class _Sending:
    def __init__(self, link: Connection, upload: Upload, retry_s: float, progress: Progress | None) -> None:
        self._link = link
        self._upload = upload
        self._retry_s = retry_s
        self._progress = progress
        self._metadata = _metadata(upload.digest, upload.filename)
        self._path: str | None = None
        self._reached = -1
        self._moved_at = time.monotonic()

    def run(self) -> None:
        self._start()
        retrying = Retrying(
            retry=retry_if_exception_type(
                (ServiceUnreachable, Unavailable, TooManyRequests, OffsetMismatch, NotFound, Gone)
            ),
            wait=wait_random_exponential(multiplier=0.2, max=2.0),
            stop=self._give_up,
            reraise=True,
        )
        retrying(self._go_on)

    def _start(self) -> None:
        headers = {**VERSION, "Upload-Length": str(self._upload.size), "Upload-Metadata": self._metadata}
        self._path = self._link.send("POST", UPLOADS, headers=headers).headers["location"]

    def _go_on(self) -> None:
        try:
            offset = self._offset()
        except (NotFound, Gone):
            # Abandoned for too long, or the service has another folder now: all of it again.
            self._start()
            offset = 0
        while offset < self._upload.size:
            offset = self._note(self._send_part(offset, min(PART_BYTES, self._upload.size - offset)))

    def _send_part(self, offset: int, size: int) -> httpx.Response:
        return self._link.send(
            "PATCH",
            self._path or "",
            headers={
                **VERSION,
                "Content-Type": PART_TYPE,
                "Content-Length": str(size),
                "Upload-Offset": str(offset),
            },
            body=lambda: self._pieces(offset, size),
            hold_s=self._upload.size / HASHED_A_SECOND,
        )

    def _offset(self) -> int:
        return self._note(self._link.send("HEAD", self._path or "", headers=VERSION))

    def _note(self, answer: httpx.Response) -> int:
        offset = int(answer.headers["upload-offset"])
        if offset > self._reached:
            self._reached, self._moved_at = offset, time.monotonic()
        return offset

    def _pieces(self, offset: int, size: int) -> Iterator[bytes]:
        sent = offset
        for chunk in self._upload.chunks(offset):
            piece = chunk[: offset + size - sent]
            yield piece
            sent += len(piece)
            if self._progress is not None:
                self._progress(sent, self._upload.size)
            if sent == offset + size:
                return

    def _give_up(self, state: RetryCallState) -> bool:
        del state
        return time.monotonic() - self._moved_at >= self._retry_s


def _metadata(digest: str, filename: str | None) -> str:
    told = {"sha256": digest.removeprefix("sha256:"), **({"filename": filename[:255]} if filename else {})}
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in told.items())
