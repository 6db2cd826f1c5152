"""What one solve leaves for the next: sketches, eigenpairs, factorisations, within a budget of bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar, cast

from torch import Tensor

__all__ = ["Factor", "FactorCache", "FactorStore"]


class Factor(Protocol):
    """Something that is expensive to make from a problem, does not depend on b, and serves every λ that it can."""

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors; what :meth:`of` makes it from again."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The factor that these tensors came from."""


class FactorStore(Protocol):
    """Where factors outlive the process, for other workers to load. Both may do nothing."""

    def load(self, key: str) -> Mapping[str, Tensor] | None:
        """The tensors kept under a key, or None."""

    def save(self, key: str, tensors: Mapping[str, Tensor], seconds: float) -> None:
        """Keeps tensors that took so many seconds to make."""


F = TypeVar("F", bound=Factor)


@dataclass
class _Kept:
    factor: Factor
    seconds: float
    uses: int
    credit: float


class FactorCache:
    """The factors of one problem, the least useful out first.

    Usefulness is seconds to make over bytes held, times uses, and ages as others come in (greedy-dual size
    frequency, Cherkasova 1998). A factor larger than the budget is handed out and not kept. For one thread.

    Args:
        budget: Bytes of all factors together.
        store: Where factors are looked for before they are made, and kept after.
    """

    def __init__(self, budget: int, store: FactorStore | None = None) -> None:
        self.budget = budget
        self.store = store
        self._kept: dict[str, _Kept] = {}
        self._age = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes that are held now."""
        return sum(kept.factor.nbytes for kept in self._kept.values())

    def get(
        self, key: str, kind: type[F], make: Callable[[], F | None], *, lasting: bool = True
    ) -> tuple[F | None, str]:
        """The factor under a key, and where it came from: ``kept``, ``loaded`` or ``made``.

        Args:
            key: What it is and all that it depends on beside the problem, e.g. ``nystrom rank=200 seed=0``.
            kind: Its class.
            make: Makes it; None where it was stopped before it was whole, which is not kept.
            lasting: Whether it is worth keeping in the store, beyond this process.
        """
        if key in self._kept:
            kept = self._kept[key]
            kept.uses += 1
            self._rate(kept)
            return cast(F, kept.factor), "kept"
        began = time.perf_counter()
        store = self.store if lasting else None
        tensors = store.load(key) if store else None
        if tensors is not None:
            factor: F | None = kind.of(tensors)
            where = "loaded"
        else:
            factor = make()
            where = "made"
        seconds = time.perf_counter() - began
        if factor is None:
            return None, where
        if tensors is None and store:
            store.save(key, factor.tensors(), seconds)
        self._keep(key, factor, seconds)
        return factor, where

    def held(self) -> list[str]:
        """The keys of what is held now."""
        return list(self._kept)

    def clear(self) -> None:
        """Forgets all of them."""
        self._kept.clear()

    def _keep(self, key: str, factor: Factor, seconds: float) -> None:
        if factor.nbytes > self.budget:
            return
        while self._kept and self.nbytes + factor.nbytes > self.budget:
            least = min(self._kept, key=lambda k: self._kept[k].credit)
            self._age = self._kept.pop(least).credit
        kept = _Kept(factor, seconds, 1, 0.0)
        self._rate(kept)
        self._kept[key] = kept

    def _rate(self, kept: _Kept) -> None:
        kept.credit = self._age + kept.uses * kept.seconds / max(kept.factor.nbytes, 1)
