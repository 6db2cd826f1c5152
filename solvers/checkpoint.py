"""A solve's state between two iterations, so that another process can go on from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

__all__ = ["Checkpoints", "SolverState"]


@dataclass(frozen=True)
class SolverState:
    """Where a solve stood after an iteration.

    Attributes:
        method: Name of the method.
        iteration: Iterations done.
        tensors: Its vectors and matrices.
        facts: Everything else, JSON-ready; ``plan`` is the product strategy, without which a resumed solve would
            round differently.
    """

    method: str
    iteration: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Checkpoints(Protocol):
    """Where a solve saves its state and finds that of an earlier attempt."""

    @property
    def resume(self) -> SolverState | None:
        """The state to go on from; None starts at the beginning."""

    def due(self) -> bool:
        """Whether the state should be saved now; asked once an iteration, so it must cost next to nothing."""

    def save(self, state: SolverState) -> None:
        """Saves a state. Its tensors change afterwards: copy or write them before returning."""
