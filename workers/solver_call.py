"""One call of a solver for a block of jobs: its options, the state it goes on from, and the iterate it starts at."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ihvp.blobs.store import BlobStore
from ihvp.jobs.store import JobStore
from ihvp.jobs.submission import JobRequest
from ihvp.methods import METHODS, InversionMethod, default_rtol, parse_options
from ihvp.settings import Settings
from solvers import InverseHvpResult, InversionRegistry
from workers.block import Block
from workers.checkpoints import BlockCheckpoints, JobCheckpoints
from workers.resolvers.model import LoadedModel

__all__ = ["SolverCall", "target_residual"]


@dataclass(frozen=True)
class SolverCall:
    """What the jobs of a block ask of the solver.

    Attributes:
        settings: The service's settings.
        store: Where checkpoints are noted.
        blobs: Where they lie.
        model: What is solved on.
        request: Any of the jobs': they agree in all that matters here.
        same_plan: Whether a solve that goes on computes products as it did, to the last bit.
    """

    settings: Settings
    store: JobStore
    blobs: BlobStore
    model: LoadedModel
    request: JobRequest
    same_plan: bool = True

    def __call__(self, block: Block, first: Tensor | None) -> InverseHvpResult[Tensor]:
        """Solves.

        Args:
            block: The right-hand sides; told of each iteration.
            first: Iterates ``[k, p]`` to start at where the method takes them; those that earlier attempts have left
                if there are any and this is None.

        Raises:
            IhvpError: It cannot be solved as it was submitted.
        """
        problem = self.model.problem_for(self.request.curvature)
        options = self._options()
        b = block.rhs
        checkpoints = self._checkpoints(block) if self._takes("checkpoints") else None
        if checkpoints is not None:
            options["checkpoints"] = checkpoints
        if self._takes("x0") and (checkpoints is None or checkpoints.resume is None):
            first = _left_over(block) if first is None else first
            if first is not None and bool(first.isfinite().all()):
                options["x0"] = first.reshape(b.shape)

        def solve() -> InverseHvpResult[Tensor]:
            method, damping = self.request.method, self.request.hessian_perturbation
            return problem.solve(method, b, hessian_perturbation=damping, callback=block, **options)

        if isinstance(checkpoints, JobCheckpoints) and checkpoints.resume is not None:
            try:
                if self.same_plan:
                    problem.pin(checkpoints.resume.facts.get("plan"))
                return solve()
            except Exception as error:  # whatever does not fit: the beginning always does
                checkpoints.leave_aside(error)
            finally:
                problem.pin(None)
        return solve()

    def _checkpoints(self, block: Block) -> JobCheckpoints | BlockCheckpoints:
        """Where the state of the solve is saved: all of it for a job alone, for each of several its iterates."""
        for member in block.members:
            if member.checkpoints is None:
                member.checkpoints = JobCheckpoints(
                    self.store, self.blobs, member.job, member.stop, interval_s=self.settings.checkpoint_s
                )
        own = block.members[0].checkpoints
        if len(block.members) == 1 and own is not None:
            return own
        return BlockCheckpoints(lambda: [(m.checkpoints, rows) for m, rows in block.running() if m.checkpoints])

    def _options(self) -> dict[str, Any]:
        """The options with the service's defaults, which are not always the library's."""
        options = parse_options(self.request.method, self.request.options).model_dump(exclude_none=True)
        rtol = target_residual(self.request)
        if rtol is not None:
            options["rtol"] = rtol
        if self.request.method is InversionMethod.Direct:
            options["memory_budget"] = self.settings.memory_budget
        if self.request.method is InversionMethod.Lissa:
            options.setdefault("scale", None)
        return options

    def _takes(self, option: str) -> bool:
        """Whether the method's function has an argument of this name."""
        function = InversionRegistry.get(type(self.model.problem.model), self.request.method)
        return option in inspect.signature(function).parameters


def _left_over(block: Block) -> Tensor | None:
    """The iterates ``[k, p]`` that the jobs' earlier attempts have left, zero where one has none; None if none has."""
    first = torch.zeros_like(block.rhs).reshape(-1, block.rhs.shape[-1])
    any_left = False
    for member, rows in block.running():
        left = None if member.checkpoints is None else member.checkpoints.iterate
        if left is not None and left.shape == first[rows].shape:
            first[rows] = left
            any_left = True
    return first if any_left else None


def target_residual(request: JobRequest) -> float | None:
    """The relative residual at which a right-hand side is done; None where the method has none to reach."""
    option = METHODS[request.method].options.model_fields.get("rtol")
    if option is None:
        return None
    rtol: float | None = request.options.get("rtol", option.default)
    return default_rtol(request.model.spec.dtype) if rtol is None else rtol
