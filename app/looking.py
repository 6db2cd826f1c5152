"""Work that looks at referenced files: in a thread, few at a time, and never longer than a caller is to wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.referenced_files import ReferencedFiles
    from app.services import Services

__all__ = ["look"]

T = TypeVar("T")

GRACE_S = 2.0
"""What a thread may take beyond its time, in a name server for example, before it is left to itself."""


async def look(services: Services, work: Callable[[], T], files: ReferencedFiles, uris: Sequence[str]) -> T:
    """Does work that reads what is referred to.

    Where that is outside the service, the work is bounded in time, and its threads are counted apart: places that
    answer slowly must not keep others from threads.

    Args:
        services: Settings and the count.
        work: What to do.
        files: Through which it reads.
        uris: What it will look at outside the blob store.

    Raises:
        SourceTimeout: It took too long.
        IhvpError: Whatever the work raises.
    """
    if not uris:
        return await anyio.to_thread.run_sync(work)
    left = services.settings.source_resolve_s + GRACE_S
    with anyio.move_on_after(left):
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=services.lookers)
    raise files.patience.over()
