"""How products are computed, and why so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from ihvp.errors import InvalidOption

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
        why: The reason.
        measured: Milliseconds a product by strategy, of those that were measured.
    """

    product: ProductKind
    rows_at_once: int
    chunk_points: int
    why: str
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def keeps(self) -> bool:
        """Whether the products of the chunks stay in memory."""
        return self.product in ("graph", "linearized")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def of(cls, plan: Mapping[str, Any]) -> Plan:
        """The inverse of :meth:`as_dict`; what else the mapping has is left alone.

        Raises:
            InvalidOption: It describes no plan.
        """
        known = {f.name: plan[f.name] for f in fields(cls) if f.name in plan}
        sizes = [known.get(name) for name in ("rows_at_once", "chunk_points")]
        usable = known.get("product") in get_args(ProductKind) and all(type(s) is int and s >= 1 for s in sizes)
        if not usable:
            raise InvalidOption(
                "This is no product strategy.",
                given=repr(dict(plan))[:200],
                allowed="info['strategy'] of an earlier solve: product, rows_at_once ≥ 1 and chunk_points ≥ 1",
            )
        return cls(**{"why": "given", **known})
