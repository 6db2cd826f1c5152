"""One call of a solver for a block of jobs: its options, the state it goes on from, and the iterate it starts at."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ihvp.blobs.store import BlobStore
from ihvp.jobs.store import JobStore
from ihvp.jobs.submission import JobRequest
from ihvp.methods import METHODS, InversionMethod, default_rtol, parse_options
from ihvp.settings import Settings
from solvers import InverseHvpResult, InversionRegistry
from workers.block import Block
from workers.checkpoints import JobCheckpoints
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
    """

    settings: Settings
    store: JobStore
    blobs: BlobStore
    model: LoadedModel
    request: JobRequest

    def __call__(self, block: Block, first: Tensor | None) -> InverseHvpResult[Tensor]:
        """Solves.

        Args:
            block: The right-hand sides; told of each iteration.
            first: Iterates ``[k, p]`` to start at where the method takes them, or None.

        Raises:
            IhvpError: It cannot be solved as it was submitted.
        """
        problem = self.model.problem_for(self.request.curvature)
        options = self._options()
        b = block.rhs
        if first is not None and bool(first.isfinite().all()) and self._takes("x0"):
            options["x0"] = first.reshape(b.shape)
        checkpoints = self._checkpoints(block)
        if checkpoints is not None:
            options["checkpoints"] = checkpoints

        def solve() -> InverseHvpResult[Tensor]:
            method, damping = self.request.method, self.request.hessian_perturbation
            return problem.solve(method, b, hessian_perturbation=damping, callback=block, **options)

        if checkpoints is not None and checkpoints.resume is not None:
            try:
                problem.pin(checkpoints.resume.facts.get("plan"))
                return solve()
            except Exception as error:  # whatever does not fit: the beginning always does
                checkpoints.leave_aside(error)
            finally:
                problem.pin(None)
        return solve()

    def _options(self) -> dict[str, Any]:
        """The options with the service's defaults, which are not always the library's."""
        options = parse_options(self.request.method, self.request.options).model_dump(exclude_none=True)
        rtol = target_residual(self.request)
        if rtol is not None:
            options["rtol"] = rtol
        if self.request.method is InversionMethod.Direct:
            options["memory_budget"] = self.settings.memory_budget
        return options

    def _checkpoints(self, block: Block) -> JobCheckpoints | None:
        """Where the state of the solve is saved; that of a block of several jobs belongs to none of them."""
        if len(block.members) > 1 or not self._takes("checkpoints"):
            return None
        (member,) = block.members
        member.checkpoints = JobCheckpoints(
            self.store, self.blobs, member.job, member.stop, interval_s=self.settings.checkpoint_s
        )
        return member.checkpoints

    def _takes(self, option: str) -> bool:
        """Whether the method's function has an argument of this name."""
        function = InversionRegistry.get(type(self.model.problem.model), self.request.method)
        return option in inspect.signature(function).parameters


def target_residual(request: JobRequest) -> float | None:
    """The relative residual at which a right-hand side is done; None where the method has none to reach."""
    option = METHODS[request.method].options.model_fields.get("rtol")
    if option is None:
        return None
    rtol: float | None = request.options.get("rtol", option.default)
    return default_rtol(request.model.spec.dtype) if rtol is None else rtol
