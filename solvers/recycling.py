"""Search directions that earlier solves left: what they have shown of H makes later solves shorter, at no product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

__all__ = ["RecycledSpace"]

MOST_PAIRS: Final = 256
MOST_WAITING: Final = 256
"""Directions that wait to be taken in; a solve's first ones show the most of H."""
FEWEST: Final = 8
"""A space too large for this many directions is not worth its memory."""
INDEPENDENT: Final = 5e-3
"""Singular values of the directions below this share of the largest are rounding."""
RELEVANT: Final = 0.2
"""Eigenvalues below this share of λ look like none to H + λI."""


@dataclass(frozen=True)
class _Waiting:
    """Directions and what H + Λ made of them; the shift is Λ's diagonal."""

    P: Tensor
    Q: Tensor
    shift: float | Tensor


class RecycledSpace:
    """The eigenpairs that solves on one problem have shown so far, best first (Parks et al., 2006).

    Conjugate gradients compute H p for every direction p and throw it away. Kept, these images give the Ritz pairs
    of H on all directions of all solves, which then deflate the next one, at whatever λ. Directions are only noted
    while a solve runs; they are taken in by :meth:`digest`, before the next solve or whenever there is time.

    Args:
        budget: Bytes that the space may take.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._waiting: list[_Waiting] = []
        self._vectors: Tensor | None = None
        self._images: Tensor | None = None
        self._values: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that are held now."""
        kept = [t for t in (self._vectors, self._images) if t is not None]
        return sum(t.nbytes for t in kept) + sum(w.P.nbytes + w.Q.nbytes for w in self._waiting)

    @property
    def rank(self) -> int:
        """Eigenpairs that are known, without those still waiting to be taken in."""
        return 0 if self._values is None else self._values.shape[0]

    @property
    def is_empty(self) -> bool:
        """Whether no solve has left anything."""
        return not self.rank and not self._waiting

    def note(self, P: Tensor, Q: Tensor, shift: float | Tensor) -> None:
        """Notes directions ``P`` ``[m, p]`` and their images ``Q`` under H + Λ, the first that there is room for.

        Args:
            P: Rows of unit length that nobody will change.
            Q: Their images; this object may overwrite them, and copies neither where there is room for all.
            shift: The diagonal of Λ, as a number or ``[p]``.
        """
        waiting = sum(w.P.shape[0] for w in self._waiting)
        room = min(self._room(P), MOST_WAITING)
        count = min(P.shape[0], room - waiting)
        if room < FEWEST or count < 1:
            return
        if count < P.shape[0]:
            P, Q = P[:count].clone(), Q[:count].clone()
        # The pairs only have to be good enough to precondition with.
        shift = shift.float() if isinstance(shift, Tensor) else shift
        self._waiting.append(_Waiting(P.float(), Q.float(), shift))

    def digest(self) -> None:
        """Takes in what is waiting: a Rayleigh–Ritz step on old and new directions together."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        P = torch.cat([*([] if self._vectors is None else [self._vectors]), *(w.P for w in waiting)])
        images = [w.Q.sub_(w.P * w.shift) for w in waiting]
        HP = torch.cat([*([] if self._images is None else [self._images]), *images])
        overlaps, products = ((P @ other.T).double().cpu() for other in (P, HP))
        values, U = torch.linalg.eigh(overlaps)
        if not bool(values.isfinite().all()) or not bool(products.isfinite().all()):
            return
        kept = values > INDEPENDENT**2 * values[-1]
        basis = (U[:, kept] * values[kept].rsqrt()).T
        projection = basis @ products @ basis.T
        ritz, W = torch.linalg.eigh((projection + projection.T) / 2)
        # Positive ones only: along the others no preconditioner can help.
        most = min(int((ritz > 0).sum()), MOST_PAIRS, self._room(P))
        ritz, W = ritz.flip(0)[:most], W.flip(1)[:, :most]
        combination = (W.T @ basis).to(P)
        self._values, self._vectors, self._images = ritz, combination @ P, combination @ HP

    def _room(self, P: Tensor) -> int:
        """Rows and their images that either half of the budget holds: what is known, and what waits."""
        return self._budget // (4 * P.shape[1] * P.element_size())

    def pairs(self, damping: float) -> tuple[Tensor, Tensor] | None:
        """The eigenpairs that make a difference to H + λI, after taking in what waits; None if there are none.

        Args:
            damping: λ.

        Returns:
            Values ``[r]``, positive and descending, in float64 and in main memory; vectors as orthonormal rows
            ``[r, p]`` in float32.
        """
        self.digest()
        if self._values is None or self._vectors is None:
            return None
        rank = int((self._values > RELEVANT * damping).sum())
        return (self._values[:rank], self._vectors[:rank]) if rank else None
