"""Checkpoints in memory, for tests of solves that go on from a saved state."""

from __future__ import annotations

from solvers.checkpoint import SolverState


class Keeper:
    """Saves at one iteration, and resumes from a state that it was given."""

    def __init__(self, at: int = -1, resume: SolverState | None = None) -> None:
        self.at, self.resume, self.asked = at, resume, 0
        self.saved: SolverState | None = None

    def due(self) -> bool:
        self.asked += 1
        return self.asked == self.at

    def save(self, state: SolverState) -> None:
        tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
        self.saved = SolverState(state.method, state.iteration, tensors, state.facts)
