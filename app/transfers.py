"""Blobs on their way in and out, a piece at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from app.byte_ranges import ByteSource
from app.held_blobs import held_blobs
from app.limits import check_room, room_for

if TYPE_CHECKING:
    from app.services import Services
    from ihvp.blobs.store import BlobInfo

__all__ = ["receive_blob", "whole_blob"]

WRITE_BYTES: Final = 1024 * 1024


async def receive_blob(services: Services, digest: str, chunks: AsyncIterator[bytes]) -> BlobInfo:
    """Stores a body under its digest, for the tenant; memory stays flat however large it is.

    The bytes are read and checked also where another tenant has brought them before: who asks cannot tell.

    Raises:
        DigestMismatch: The bytes hash to another digest; nothing is stored.
        OutOfSpace: The store is full.
        QuotaExceeded: The tenant has no room for it.
    """
    run = anyio.to_thread.run_sync
    most = services.settings.tenant_bytes
    room = None if most is None else await room_for(services, digest, most)
    size = 0
    context = services.blobs.writer()
    writer = await run(context.__enter__)
    try:
        # Sockets deliver 64 KiB at a time; a trip to a thread is paid once a MiB.
        pending = bytearray()
        async for chunk in chunks:
            pending += chunk
            size += len(chunk)
            if room is not None and size > room:
                # No need to see the rest: nothing of it is kept.
                await check_room(services, size)
            if len(pending) >= WRITE_BYTES:
                await run(writer.write, bytes(pending))
                pending.clear()
        if pending:
            await run(writer.write, bytes(pending))
        info = await run(partial(writer.commit, expected=digest))
        return replace(info, created=await services.holdings.add(digest, info.size, most=most))
    finally:
        # Also when the caller is gone and this task is cancelled: the temporary file has to go.
        with anyio.CancelScope(shield=True):
            await run(context.__exit__, None, None, None)


async def whole_blob(services: Services, digest: str) -> ByteSource:
    """The bytes of a blob that the tenant holds.

    Raises:
        BlobNotFound: No blob has this digest.
    """
    blobs = await held_blobs(services, [digest])

    def find() -> ByteSource:
        return ByteSource(blobs.local_path(digest), 0, blobs.stat(digest).size)

    return await anyio.to_thread.run_sync(find)
