"""Influence scores: those that matter most, and all of them where they are few."""

from __future__ import annotations

import heapq
import math
from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread

from app.results import finished_job
from app.stored_tensors import open_tensor_file
from ihvp.errors import BlobNotFound, NoInfluence, ResultExpired
from ihvp.results import SCORES_TENSOR
from ihvp.wire import Influence, InfluenceExtremes, InfluencePoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.services import Services
    from ihvp.blobs.store import BlobAccess

__all__ = ["read_influence"]


async def read_influence(services: Services, job_id: str, top: int) -> Influence:
    """The scores of a job.

    Raises:
        NoInfluence: They were not asked for at submit.
        IhvpError: As ``finished_job``.
    """
    digest = (await finished_job(services, job_id)).summary.influence_digest
    if digest is None:
        raise NoInfluence(
            "Influence scores were not asked for.",
            given=job_id,
            hint='Submit with "influence": {"on": "training"}.',
        )
    limit = services.settings.max_inline_elements
    try:
        return await anyio.to_thread.run_sync(partial(_read, services.blobs, digest, top=top, max_inline=limit))
    except BlobNotFound:
        raise ResultExpired("The scores were removed when their retention time was over.", given=job_id) from None


def _read(blobs: BlobAccess, digest: str, *, top: int, max_inline: int) -> Influence:
    scores = open_tensor_file(blobs, digest).tensors[SCORES_TENSOR]
    inline: list[list[float | None]] | None = [] if scores.size <= max_inline else None
    extremes = []
    # Row by row: k × n numbers need not fit into memory, n do.
    for row in scores.rows():
        extremes.append(_extremes(row, top))
        if inline is not None:
            inline.append([number if math.isfinite(number) else None for number in row])
    return Influence(
        scores=inline,
        scores_href=f"/v1/blobs/{digest}",
        shape=list(scores.shape),
        top=extremes,
    )


def _extremes(row: Sequence[float], top: int) -> InfluenceExtremes:
    ranked = [index for index, number in enumerate(row) if math.isfinite(number)]
    return InfluenceExtremes(
        helpful=[_point(i, row) for i in heapq.nlargest(top, ranked, key=row.__getitem__)],
        harmful=[_point(i, row) for i in heapq.nsmallest(top, ranked, key=row.__getitem__)],
    )


def _point(index: int, row: Sequence[float]) -> InfluencePoint:
    return InfluencePoint(index=index, score=row[index])
