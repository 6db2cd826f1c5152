"""How products are computed, and why so."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Plan", "Strategy"]

Strategy = Literal["auto", "graph", "linearized", "recomputed"]


@dataclass(frozen=True)
class Plan:
    """The product strategy of an operator.

    Attributes:
        product: ``graph`` (retained gradient graph), ``linearized`` (kept linearisation) or ``recomputed``
            (a graph made anew for each block of vectors and dropped after it).
        rows_at_once: Vectors that go through one vectorised pass; 1 for one after another.
        chunk_points: Most points differentiated at a time.
        why: The reason, with what was measured.
    """

    product: Literal["graph", "linearized", "recomputed"]
    rows_at_once: int
    chunk_points: int
    why: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)
