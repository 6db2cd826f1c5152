"""A problem that is solved more than once: a model at its trained parameters, and its training data."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any, Final, Self

import torch
from torch import Tensor

from ihvp.errors import DataMismatch, InvalidInput, LossMismatch
from ihvp.methods import Curvature, InversionMethod
from solvers.damping import Perturbation
from solvers.data import Batch, TrainingData
from solvers.factors import FactorCache, FactorStore
from solvers.kernels import twice_differentiable_kernels
from solvers.losses import LossTerms, loss_terms
from solvers.operators.chunk_curvature import ChunkCurvature, parse_curvature
from solvers.operators.curvature import CurvatureOperator
from solvers.operators.minibatches import MinibatchHessians
from solvers.operators.plan import Strategy
from solvers.operators.planning import Planner
from solvers.registry import InversionRegistry
from solvers.result import InverseHvpResult
from solvers.snapshot import ModelSnapshot
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["MEMORY_BUDGET", "Problem"]

MEMORY_BUDGET: Final = 2**30
"""Bytes that a problem may keep beside the model and the data, unless told otherwise."""


class Problem:
    """(H + λI) x = b for one model and one data set, with everything that several solves can share.

    Reuse is what this object is for: gradient graphs or linearisations made by one solve serve the next.
    ``solve_hvp`` makes one and drops it. The problem stays at the parameters and buffers that the model had
    when it was made. Iterating over it yields the batches, so it can stand wherever training data can. It
    is not to be used by two threads at a time.

    H is the Hessian unless another curvature is named; :class:`solvers.operators.chunk_curvature.ChunkCurvature`
    defines them. A point's own loss and gradient, and with them influence scores, are the same for all.

    Args:
        model: The model and its loss.
        training_data: Iterable of ``(x, y)`` batches: a list, a ``DataLoader``, or an iterator, which is read
            once and kept.
        curvature: What H is: a :class:`ihvp.methods.Curvature` or its value.
        seed: Draws the targets of ``mc_fisher``.
        memory_budget: Bytes that gradient graphs or linearisations may take; past it they are made anew,
            chunk by chunk, for each block of products. Batches are kept up to as many bytes again.
        strategy: How products are computed. ``auto`` measures where there is time to win; ``graph``,
            ``linearized``, ``recomputed`` and ``forward`` make the choice repeatable to the last bit.
        factor_store: Where sketches and factorisations outlive this process, if anywhere.

    Attributes:
        model: As given.
        curvature: What H is.
        factors: Sketches, eigenpairs and factorisations that solves leave for later ones, up to ``memory_budget``.
        num_params: The length p of right-hand sides.
        num_points: The number n of training points.
        mean_loss: The mean loss over them.

    Raises:
        InvalidOption: No curvature has this name.
        EmptyData: There are no points.
        RowsMismatch: Inputs and targets differ in number.
        DataMismatch: The model cannot be applied to the inputs, or the loss there is not finite.
        LossMismatch: The loss cannot be taken of outputs and targets, does not define a mean over points, or has
            no Fisher matrix where one is asked for.
        TargetsOutOfRange: A target is no class of the model.
        ModelInTrainingMode: The module has active dropout or batch norm.
    """

    def __init__(
        self,
        model: TorchTwiceDifferentiable,
        training_data: Iterable[Any],
        *,
        curvature: Curvature | str = Curvature.Hessian,
        seed: int = 0,
        memory_budget: int = MEMORY_BUDGET,
        strategy: Strategy = "auto",
        factor_store: FactorStore | None = None,
    ) -> None:
        if not isinstance(model, TorchTwiceDifferentiable):
            raise InvalidInput(
                "A problem is made of a TorchTwiceDifferentiable.",
                given=type(model).__name__,
                hint="TorchTwiceDifferentiable(module, loss) wraps a module.",
            )
        kind = parse_curvature(curvature)
        self.model = model
        self.memory_budget = memory_budget
        self.factors = FactorCache(memory_budget, factor_store)
        self.snapshot = ModelSnapshot(model.model)
        self.num_params = self.snapshot.num_params
        self.data = TrainingData(training_data, memory_budget)
        self.num_points = self.data.num_points
        self.terms, self.denominator, self.mean_loss = self._survey()
        self._strategy: Strategy = strategy
        self._minibatches: MinibatchHessians | None = None
        self._take(kind, seed)

    @classmethod
    def of(cls, model: TorchTwiceDifferentiable, training_data: Iterable[Any]) -> Problem:
        """The problem itself where one is given as the training data of its own model; else a new one."""
        if isinstance(training_data, Problem) and training_data.model is model:
            return training_data
        return cls(model, training_data)

    def with_curvature(self, curvature: Curvature | str, *, seed: int = 0) -> Self:
        """The problem of another curvature of the same model and data; it shares all that is not the curvature's.

        The data are not gone through again. Factors of both are kept within one budget.

        Args:
            curvature: As above.
            seed: As above.

        Raises:
            InvalidOption: No curvature has this name.
            LossMismatch: A Fisher matrix is asked of a loss that has none.
        """
        other = copy.copy(self)
        other._take(parse_curvature(curvature), seed)
        return other

    def __iter__(self) -> Iterator[Batch]:
        return self.data.batches()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters, in which solves are computed."""
        return self.snapshot.dtype

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.snapshot.device

    @property
    def description(self) -> dict[str, str]:
        """What H is, in words: ``curvature`` and ``loss``, for ``info``."""
        return {"curvature": self._chunks.key, "loss": self.terms.description}

    def solve(
        self, method: InversionMethod | str, b: Tensor, *, hessian_perturbation: Perturbation = 0.0, **options: Any
    ) -> InverseHvpResult[Tensor]:
        """Solves (H + λI) x = b; see :func:`solvers.solve_hvp` for arguments, result and errors."""
        result: InverseHvpResult[Tensor] = InversionRegistry.call(
            method, self.model, self, b, hessian_perturbation, **options
        )
        return result

    def hessian(self, expected_products: int, rows: int) -> CurvatureOperator:
        """H, whichever curvature it is, as an operator on rows ``[k, p]``, set up for a solve of a predicted length.

        Args:
            expected_products: About how many vectors it will be applied to.
            rows: How many vectors at a time.
        """
        return self._planner.operator(expected_products, rows)

    def chunk_points(self) -> int:
        """How many points a pass may hold at a time within a quarter of the memory budget."""
        return self._planner.chunk_points()

    def minibatches(self) -> MinibatchHessians:
        """Unbiased estimates of H, one a batch of the training data as it was given."""
        if self._minibatches is None:
            fits = self._planner.bytes_per_point * self.num_points <= self.memory_budget
            self._minibatches = MinibatchHessians(self._chunks, list(self.data.batches()), keep=fits)
        return self._minibatches

    def factor_key(self, key: str) -> str:
        """The key of a factor among those of every curvature that shares the cache."""
        return f"{self._chunks.key}: {key}"

    def _take(self, kind: Curvature, seed: int) -> None:
        """Makes this curvature the problem's own."""
        divisor = float(self.num_points) if kind is Curvature.EmpiricalFisher else self.denominator
        self.curvature = kind
        self._chunks = ChunkCurvature(kind, self.snapshot, self.terms, divisor, seed)
        self._planner = Planner(self._chunks, self.data, self.memory_budget, self._strategy)
        self._minibatches = None

    def _survey(self) -> tuple[LossTerms, float, float]:
        """Goes through the data once: the loss's terms, its denominator, and the mean loss."""
        terms: LossTerms | None = None
        numerator = denominator = 0.0
        with torch.no_grad(), twice_differentiable_kernels():
            for index, (x, y) in enumerate(self.data.batches()):
                target = y.to(self.device)
                output = self.snapshot.outputs(self.snapshot.parameters, x.to(self.device))
                if output.ndim == 0 or output.shape[0] != x.shape[0]:
                    raise LossMismatch(
                        "The model must give one output a point.",
                        given=f"inputs {list(x.shape)}, outputs {list(output.shape)}",
                    )
                terms = terms or loss_terms(self.model.loss, output, target)
                terms.check(output, target)
                value = float(terms.numerator(output, target))
                if value != value or value in (float("inf"), float("-inf")):
                    raise DataMismatch(
                        "The loss is not finite at the trained parameters.",
                        given=f"{value} in batch {index}",
                        hint="Look for NaN or infinity in the inputs, the targets and the weights.",
                    )
                numerator += value
                denominator += terms.denominator(output, target)
        if terms is None or not denominator > 0:
            raise LossMismatch(
                "No target counts: the sum of the weights of all targets is not positive.",
                given=f"Σ weights = {denominator:g}",
            )
        return terms, denominator, numerator / denominator
