"""A solve's state between two iterations, so that another process can go on from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ihvp.errors import InvalidInput
from ihvp.methods import TerminationStatus
from solvers.certificate import Ending

if TYPE_CHECKING:
    from solvers.system import LinearSystem

__all__ = ["Checkpoints", "SolverState", "check_resume", "endings_from", "endings_to", "identity_of"]


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


def identity_of(system: LinearSystem) -> dict[str, Any]:
    """What tells whether a state belongs to a system, and how its products were computed; goes into ``facts``."""
    rhs = system.rhs
    return {
        "shape": list(rhs.shape),
        "dtype": str(rhs.dtype),
        "damping": repr(system.perturbation),
        # Weighted by place, so that the same rows in another order are not taken for these.
        "rhs": float((rhs.double().norm(dim=1) * torch.arange(1, rhs.shape[0] + 1, device=rhs.device)).sum()),
        "plan": system.plan,
    }


def check_resume(system: LinearSystem, state: SolverState) -> None:
    """Refuses a state of another solve.

    The product strategy may differ: the solve then goes on to its tolerance, though not bit for bit.

    Raises:
        InvalidInput: Method, shape, dtype, λ or right-hand sides differ.
    """
    own = {"method": system.method.value, **identity_of(system)}
    found = {"method": state.method, **state.facts}
    differing = [name for name in own if name != "plan" and own[name] != found.get(name)]
    if differing:
        raise InvalidInput(
            "The saved state belongs to another solve.",
            given="; ".join(f"{name} {found.get(name)}" for name in differing),
            allowed="; ".join(f"{name} {own[name]}" for name in differing),
            hint="Start without it.",
        )


def endings_to(endings: Mapping[int, Ending]) -> dict[str, Any]:
    """Endings by right-hand side as ``facts`` hold them."""
    return {str(i): {**vars(ending), "status": ending.status.value} for i, ending in endings.items()}


def endings_from(kept: Mapping[str, Any]) -> dict[int, Ending]:
    """The inverse of :func:`endings_to`."""
    return {int(i): Ending(**{**parts, "status": TerminationStatus(parts["status"])}) for i, parts in kept.items()}
