"""How products are computed, and why so."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Plan", "ProductKind", "Strategy"]

ProductKind = Literal["graph", "linearized", "recomputed", "forward"]

Strategy = Literal["auto", "graph", "linearized", "recomputed", "forward"]


@dataclass(frozen=True)
class Plan:
    """The product strategy of an operator.

    Attributes:
        product: ``graph`` (retained graph, differentiated backwards), ``linearized`` (kept linearisation),
            ``recomputed`` (a graph made anew for each block of vectors and dropped after it) or ``forward``
            (forward mode through a pass made anew for each vector).
        rows_at_once: Vectors that go through one vectorised pass; 1 for one after another.
        chunk_points: Most points differentiated at a time.
        why: The reason, with what was measured.
    """

    product: ProductKind
    rows_at_once: int
    chunk_points: int
    why: str

    @property
    def keeps(self) -> bool:
        """Whether the products of the chunks stay in memory."""
        return self.product in ("graph", "linearized")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)
