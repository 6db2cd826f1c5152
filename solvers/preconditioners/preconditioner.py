"""What a Krylov method needs of a preconditioner."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

__all__ = ["Preconditioner"]


class Preconditioner(Protocol):
    """A symmetric positive definite approximation of (H + λI)⁻¹ at one λ."""

    @property
    def description(self) -> dict[str, Any]:
        """Kind, rank after truncation and the like, JSON-ready; goes into ``info["preconditioner"]``."""

    def __call__(self, R: Tensor) -> Tensor:
        """Applies it to each row of ``R`` ``[k, p]``; never changes ``R``."""
