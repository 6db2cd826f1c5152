"""What is to be solved, as far as its cost goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ihvp.methods import Curvature, InversionMethod, default_rtol, parse_options

__all__ = ["Task", "Workload"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Workload:
    """A model and right-hand sides, whichever method solves them.

    Attributes:
        model: Digest of the model.
        curvature: What H is.
        architecture: Its type.
        dtype: ``float32`` or ``float64``.
        num_points: Training points n.
        batch_size: Points of a batch, which only lissa depends on.
        shapes: Of the parameters that H is taken over.
        columns: Right-hand sides k.
        damping: The smallest λ; None if the service is to choose it.
        influence: Whether training points are scored.
    """

    model: str
    curvature: Curvature
    architecture: str
    dtype: str
    num_points: int
    batch_size: int
    shapes: tuple[Shape, ...]
    num_params: int
    columns: int
    damping: float | None
    influence: bool = False

    @property
    def item_size(self) -> int:
        """Bytes of a number."""
        return 8 if self.dtype == "float64" else 4

    def vectors(self, count: float) -> int:
        """Bytes of so many vectors for each right-hand side."""
        return int(count * self.columns * self.num_params * self.item_size)

    def panel(self, width: int) -> int:
        """Bytes of a matrix of so many vectors, however many right-hand sides there are."""
        return width * self.num_params * self.item_size


@dataclass(frozen=True)
class Task:
    """A method with its options, after the service's defaults."""

    method: InversionMethod
    options: Mapping[str, Any]

    @classmethod
    def of(cls, method: InversionMethod, options: dict[str, Any], dtype: str) -> Task:
        """A method with its options, and the service's defaults for those that were left out.

        Raises:
            UnknownOption: A name that the method does not have.
            InvalidOption: A value of the wrong type or outside its range.
        """
        filled = parse_options(method, options).model_dump()
        if "rtol" in filled and filled["rtol"] is None:
            filled["rtol"] = default_rtol(dtype)
        return cls(method, filled)

    @property
    def preconditioner(self) -> str | None:
        """What is solved with first, if anything."""
        return self.options.get("preconditioner")

    @property
    def rank(self) -> int | None:
        """The eigenpairs that were asked for, where the method has such an option."""
        for name in ("rank", "rank_estimate", "preconditioner_rank"):
            if self.options.get(name) is not None:
                return int(self.options[name])
        return None

    @property
    def rtol(self) -> float | None:
        """The tolerance, where the method has one."""
        return self.options.get("rtol")
