"""Which representation a caller gets: the Accept header against what can be produced."""

from __future__ import annotations

from collections.abc import Sequence

from ihvp.errors import NotAcceptable

__all__ = ["choose"]


def choose(accept: str | None, offered: Sequence[str]) -> str:
    """The offered media type that the caller likes best; among equals the first offered.

    Args:
        accept: The Accept header; None accepts anything.
        offered: Media types, best first.

    Raises:
        NotAcceptable: None of them is wanted.
    """
    if accept is None or not accept.strip():
        return offered[0]
    ranges = [_parse(part) for part in accept.split(",") if part.strip()]
    best = max(offered, key=lambda kind: _quality(kind, ranges))
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(
            "None of the media types asked for can be produced.", given=accept[:200], allowed=", ".join(offered)
        )
    return best


def _parse(part: str) -> tuple[str, float]:
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
    try:
        return kind, min(max(float(quality), 0.0), 1.0)
    except ValueError:
        return kind, 0.0


def _quality(kind: str, ranges: Sequence[tuple[str, float]]) -> float:
    # The most specific range that fits decides, whatever the order they were written in.
    for pattern in (kind, f"{kind.partition('/')[0]}/*", "*/*"):
        for wanted, quality in ranges:
            if wanted == pattern:
                return quality
    return 0.0
