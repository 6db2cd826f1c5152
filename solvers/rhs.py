"""Checks of right-hand sides and of the vectors that go with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ihvp.errors import InvalidInput, InvalidOption, NonFiniteRhs, RhsShapeMismatch

__all__ = ["check_rhs", "starting_point"]


def check_rhs(b: Any, num_params: int) -> Tensor:
    """B as rows ``[k, p]``, in its own dtype and on its own device; a view, never changed.

    Raises:
        RhsShapeMismatch: It is not ``[p]`` or ``[k, p]`` with k ≥ 1.
        NonFiniteRhs: It holds NaN or infinity.
        InvalidInput: It is no floating-point tensor.
    """
    if not isinstance(b, Tensor) or not b.is_floating_point():
        given = f"a tensor of {b.dtype}" if isinstance(b, Tensor) else type(b).__name__
        raise InvalidInput("A right-hand side must be a floating-point tensor.", given=given)
    if b.ndim not in (1, 2) or b.shape[-1] != num_params or b.numel() == 0:
        raise RhsShapeMismatch(
            f"A right-hand side must have as many numbers as the model has trainable parameters, {num_params}.",
            given=str(list(b.shape)),
            allowed=f"[{num_params}] or [k, {num_params}] with k ≥ 1",
        )
    rows = b.detach().reshape(-1, num_params)
    finite = rows.isfinite()
    if not finite.all():
        row, index = (int(i) for i in (~finite).nonzero()[0])
        raise NonFiniteRhs(
            f"Right-hand side {row} is not finite at index {index}.", given=str(rows[row, index].item())
        )
    return rows


def starting_point(name: str, value: Tensor, like: Tensor) -> Tensor:
    """A copy of a caller's first iterate ``[p]`` or ``[k, p]`` as rows like those of ``like`` ``[k, p]``.

    Raises:
        InvalidOption: It has another shape or is not finite.
    """
    fits = isinstance(value, Tensor) and value.shape in (like.shape, like.shape[1:])
    if not fits or not bool(torch.isfinite(value).all()):
        given = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InvalidOption(
            f"{name} must be finite and of the shape of the right-hand sides.",
            given=str(given) if not fits else "NaN or infinity",
            allowed=f"[{like.shape[1]}] or {list(like.shape)}",
        )
    return value.detach().to(like).expand_as(like).clone()
