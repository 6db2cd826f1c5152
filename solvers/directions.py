"""Search directions of one solve and what the operator makes of them, kept so that new ones stay conjugate to all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from solvers.blocks import gram

__all__ = ["Directions"]

FEWEST: Final = 128
"""As many are kept where they fit, however cheap products are."""
LEAST_ROOM: Final = 32
"""Directions that there is memory for at first; it doubles as they become more."""


class Directions:
    """Directions ``P``, images ``Q`` = A P, and the inverses of the blocks Pᵢ Qᵢᵀ.

    In exact arithmetic a direction is conjugate to all earlier ones once it is to the last block. In floating point
    it loses that as soon as an eigenvalue at the end of the spectrum is found, and conjugate gradients find the
    same one again and again (Paige, 1971): on a trained network that is a third of all iterations. Where they are
    many, the first ones are kept, for they show the largest eigenvalues; the last block always is.

    Args:
        most: How many to keep.
        like: A tensor ``[..., p]`` on their device, of the dtype to keep them in; it may be a smaller one than that
            of the solve.
    """

    def __init__(self, most: int, like: Tensor) -> None:
        self._most = most
        self._rows = 0
        self._P = like.new_empty(0, like.shape[-1])
        self._Q = self._P
        self._inverses: list[Tensor] = []
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return self._rows

    @property
    def vectors(self) -> Tensor:
        """The directions P that are kept, ``[m, p]``, in the order in which they were taken."""
        return self._P[: self._rows]

    @property
    def images(self) -> Tensor:
        """Their images Q ``[m, p]``."""
        return self._Q[: self._rows]

    def add(self, P: Tensor, Q: Tensor, inverse: Tensor) -> None:
        """Takes in a block, conjugate to all before.

        Args:
            P: ``[m, p]``; not changed by anybody from now on.
            Q: Its image.
            inverse: (P Qᵀ)⁻¹ in float64, in main memory.
        """
        count = P.shape[0]
        self._last = (P, Q, inverse)
        if self._rows + count > self._most:
            # No smaller block that follows may take the place: resumed solves would keep others.
            self._most = self._rows
            return
        if self._rows + count > self._P.shape[0]:
            room = min(self._most, max(2 * self._P.shape[0], self._rows + count, LEAST_ROOM))
            self._P, self._Q = (self._grown(kept, room) for kept in (self._P, self._Q))
        piece = slice(self._rows, self._rows + count)
        self._P[piece], self._Q[piece] = P, Q
        self._rows += count
        self._inverses.append(inverse)

    def conjugate(self, Z: Tensor) -> Tensor:
        """What of the rows of ``Z`` ``[k, p]`` is conjugate to all directions that are kept, and to the last block."""
        if self._last is None:
            return Z
        P, Q, inverse = self._last
        # The last one counts most, and in float64: what is left of the others is rounding already.
        Z = Z - (gram(Z, Q) @ inverse).to(Z) @ P
        if len(self._inverses) < 2:
            return Z
        along = self._inverted(Z.to(self._P.dtype) @ self.images.T)
        return Z - (along @ self.vectors).to(Z)

    def project(self, R: Tensor) -> tuple[Tensor, Tensor]:
        """The step along the directions that makes residuals orthogonal to them.

        Args:
            R: Residuals ``[k, p]``.

        Returns:
            What to add to the solutions, and to take from the residuals.
        """
        along = self._inverted(gram(R, self.vectors).to(self._P))
        return (along @ self.vectors).to(R), (along @ self.images).to(R)

    def share(self, r: Tensor) -> float:
        """The part of a row ``[p]`` that lies in the span of the directions that are kept, between 0 and about 1."""
        coefficients = self.vectors @ r.to(self._P)
        return float(torch.linalg.vector_norm(coefficients) / torch.linalg.vector_norm(r).clamp_min(1e-30))

    def _inverted(self, coefficients: Tensor) -> Tensor:
        if not self._inverses:
            return coefficients
        inverse: Tensor = torch.block_diag(*self._inverses)  # type: ignore[no-untyped-call]
        return (coefficients.double().cpu() @ inverse).to(coefficients)

    def _grown(self, kept: Tensor, room: int) -> Tensor:
        grown = kept.new_empty(room, kept.shape[1])
        grown[: self._rows] = kept[: self._rows]
        return grown

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, for a checkpoint."""
        blocks = {f"inverse.{i}": inverse for i, inverse in enumerate(self._inverses)}
        last = {} if self._last is None else dict(zip(("last.P", "last.Q", "last.inverse"), self._last, strict=True))
        return {"P": self.vectors, "Q": self.images, "most": torch.tensor([self._most]), **blocks, **last}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`tensors`."""
        like = self._P
        self._P, self._Q = (tensors[name].to(like).clone() for name in ("P", "Q"))
        self._rows, self._most = self._P.shape[0], int(tensors["most"])
        count = sum(name.startswith("inverse.") for name in tensors)
        self._inverses = [tensors[f"inverse.{i}"].cpu() for i in range(count)]
        if "last.P" in tensors:
            P, Q = (tensors[name].to(like.device) for name in ("last.P", "last.Q"))
            self._last = (P, Q, tensors["last.inverse"].cpu())
