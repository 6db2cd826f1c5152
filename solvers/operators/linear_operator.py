"""What a method needs of an operator."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

__all__ = ["LinearOperator"]


class LinearOperator(Protocol):
    """A symmetric linear operator on vectors of length p, applied to the rows of a matrix."""

    @property
    def size(self) -> int:
        """The length p of a vector."""

    def __call__(self, V: Tensor, *, accumulate: torch.dtype | None = None) -> Tensor:
        """Applies the operator to each row.

        Args:
            V: Vectors ``[k, p]`` in the dtype of the model.
            accumulate: The dtype in which parts are summed and returned; the model's if left out.

        Returns:
            The products ``[k, p]``.
        """
