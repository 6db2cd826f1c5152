"""What a solve returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["InverseHvpResult"]

TensorT = TypeVar("TensorT")


@dataclass(frozen=True, eq=False)
class InverseHvpResult(Generic[TensorT]):
    """The solution x of (H + λI) x = b and everything worth knowing about it.

    Unpacks as ``x, info = result``.

    Attributes:
        x: The solution, with the shape, dtype and device of b.
        info: ``certificate`` (a list, one entry a right-hand side) and what the method adds to it.
    """

    x: TensorT
    info: dict[str, Any]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self.info))
