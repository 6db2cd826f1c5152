"""Parts of an upload on their way in: a piece at a time, kept as far as they came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from app.transfers import WRITE_BYTES
from ihvp.errors import BlobNotFound, UploadStalled

if TYPE_CHECKING:
    from app.services import Services
    from ihvp.blobs.uploads import Checksum, Upload

__all__ = ["hold_upload", "receive_part"]

STALL_S: Final = 20.0
"""Longest wait for the next bytes. A link that has died without a word would hold the upload's lock otherwise."""


async def receive_part(
    services: Services,
    upload_id: str,
    offset: int,
    chunks: AsyncIterator[bytes],
    *,
    announced: int,
    checksum: Checksum | None,
) -> Upload:
    """Appends a body to an upload; what came before the connection broke is kept.

    Args:
        services: Have the upload, and note who holds what it becomes.
        upload_id: Which one.
        offset: Where the part begins.
        chunks: The body.
        announced: Its size, 0 where that is not known.
        checksum: What it hashes to.

    Raises:
        IhvpError: See ``FileUploads.appending`` and ``Appender``.
        UploadStalled: No bytes came for too long.
    """
    run = anyio.to_thread.run_sync
    context = services.uploads.appending(upload_id, offset, announced=announced, checksum=checksum)
    appender = await run(context.__enter__)
    pending = bytearray()
    try:
        try:
            async for chunk in _unstalled(chunks):
                pending += chunk
                if len(pending) >= WRITE_BYTES:
                    await run(appender.write, bytes(pending))
                    pending.clear()
        finally:
            with anyio.CancelScope(shield=True):
                await run(appender.write, bytes(pending))
        upload = await run(appender.finish)
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            await run(partial(context.__exit__, type(error), error, error.__traceback__))
        raise
    await run(context.__exit__, None, None, None)
    await hold_upload(services, upload)
    return upload


async def hold_upload(services: Services, upload: Upload) -> None:
    """Lets the tenant see the blob that a finished upload has become.

    Also called where one is looked at: a process may have died between the blob and the note.
    """
    if not upload.finished:
        return
    with suppress(BlobNotFound):  # an old one whose blob has gone again
        await anyio.to_thread.run_sync(services.blobs.stat, upload.digest)
        await services.holdings.add(upload.digest, upload.length)


async def _unstalled(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    pieces = aiter(chunks)
    while True:
        try:
            async with asyncio.timeout(STALL_S):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise UploadStalled(
                f"No bytes came for {STALL_S:g} s.", hint="Ask with HEAD how far the upload has come, and go on there."
            ) from None
        yield piece
