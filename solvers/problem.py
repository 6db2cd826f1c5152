"""A problem that is solved more than once: a model at its trained parameters, and its training data."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.errors import InvalidInput
from ihvp.methods import Curvature, InversionMethod
from solvers.damping import Perturbation
from solvers.data import TrainingData
from solvers.factors import FactorCache, FactorStore
from solvers.operators.chunk_curvature import ChunkCurvature, parse_curvature
from solvers.operators.curvature import CurvatureOperator
from solvers.operators.differentiable import require_second_derivatives
from solvers.operators.minibatches import MinibatchHessians
from solvers.operators.plan import Plan, Strategy
from solvers.operators.planning import Planner
from solvers.recycling import RecycledSpace
from solvers.registry import InversionRegistry
from solvers.result import InverseHvpResult
from solvers.single import SingleTwin, single_twin
from solvers.snapshot import ModelSnapshot
from solvers.survey import survey
from solvers.torch_model import TorchTwiceDifferentiable

__all__ = ["MEMORY_BUDGET", "Problem"]

MEMORY_BUDGET: Final = 2**30
"""Bytes that a problem may keep beside the model and the data, unless told otherwise."""
ATTENTION: Final = "the math kernel: fused attention has no second derivative"


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
        training_data: Iterable of ``(x, y)`` or ``(x, y, w)`` batches: a list, a ``DataLoader``, or an iterator,
            which is read once and kept. x is a tensor or a dict of tensors by the names of the model's arguments. A
            point of weight w counts as w points: see :class:`solvers.operators.chunk_curvature.ChunkCurvature`.
        curvature: What H is: a :class:`ihvp.methods.Curvature` or its value.
        seed: Draws the targets of ``mc_fisher``.
        memory_budget: Bytes that products may take, with what they allocate on the way: gradient graphs and
            linearisations are kept up to 0.4 of it; past that they are made anew, chunk by chunk, for each block
            of vectors. Batches are kept up to as many bytes again.
        strategy: How products are computed. ``auto`` measures where there is time to win; ``graph``,
            ``linearized``, ``recomputed`` and ``forward`` make the choice repeatable to the last bit.
        factor_store: Where sketches and factorisations outlive this process, if anywhere.

    Attributes:
        model: As given.
        curvature: What H is.
        factors: Sketches, eigenpairs and factorisations that solves leave for later ones, up to ``memory_budget``.
        strategy: As given.
        recycled: Search directions that cg leaves for later solves, up to a quarter of it.
        products_spent: Hessian-vector products that solves on this curvature have cost so far.
        num_params: The length p of right-hand sides.
        num_points: The number n of training points.
        denominator: What the sum of the loss's numerators over them is divided by.
        mean_loss: The mean loss over them.

    Raises:
        InvalidOption: No curvature has this name.
        EmptyData: There are no points.
        RowsMismatch: Inputs, targets and weights differ in number.
        InvalidSampleWeights: A weight is negative or not finite, or all are zero.
        DataMismatch: The model cannot be applied to the inputs, or the loss there is not finite.
        LossMismatch: The loss cannot be taken of outputs and targets, does not define a mean over points, or has
            no Fisher matrix where one is asked for.
        TargetsOutOfRange: A target is no class of the model.
        ModelInTrainingMode: The module has active dropout or batch norm.
        OutOfMemory: Not even one point fits the memory that is free.
    """

    _differentiable: bool
    _single: SingleTwin | None
    _tried_single: bool

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
        self._survey = survey(self.snapshot, model.loss, self.data, memory_budget)
        self.terms, self.mean_loss = self._survey.terms, self._survey.mean_loss
        self.denominator = self._survey.denominator
        self.strategy: Strategy = strategy
        self._minibatches: MinibatchHessians | None = None
        self._relatives: dict[str, Problem] = {}
        self._take(self._chunks_of(kind, seed))

    @classmethod
    def of(cls, model: TorchTwiceDifferentiable, training_data: Iterable[Any]) -> Problem:
        """The problem itself where one is given as the training data of its own model; else a new one."""
        if isinstance(training_data, Problem) and training_data.model is model:
            return training_data
        return cls(model, training_data)

    def with_curvature(self, curvature: Curvature | str, *, seed: int = 0) -> Problem:
        """The problem of another curvature of the same model and data; it shares all that is not the curvature's.

        The data are not gone through again. Factors of both are kept within one budget, and so are graphs and
        linearisations. Asked again for the same curvature, the same problem is returned, with what it has kept.

        Args:
            curvature: As above.
            seed: As above.

        Raises:
            InvalidOption: No curvature has this name.
            LossMismatch: A Fisher matrix is asked of a loss that has none.
        """
        chunks = self._chunks_of(parse_curvature(curvature), seed)
        if chunks.key not in self._relatives:
            copy.copy(self)._take(chunks)
        return self._relatives[chunks.key]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return (batch.given() for batch in self.data.batches())

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
        """What H is and comes from, in words: ``curvature``, ``loss``, and ``attention`` if there is any."""
        attention = {"attention": ATTENTION} if self._survey.attention else {}
        return {"curvature": self._chunks.key, "loss": self.terms.description, **attention}

    @property
    def shortage(self) -> list[str]:
        """Where memory ran out in the first pass over the data or on minibatches, and how it went on, in words."""
        minibatches = [] if self._minibatches is None else self._minibatches.shortage
        steps = {"the first pass": self._survey.shortage, "minibatches": minibatches}
        return [f"{what}: out of memory with {step}" for what, found in steps.items() for step in found]

    @property
    def nbytes(self) -> int:
        """Bytes kept beside the model: batches, graphs or linearisations, factors, search directions.

        Those of all curvatures that share them; what a list that was given as data holds is not counted.
        """
        graphs = sum(p._graph_bytes + p.recycled.nbytes for p in self._relatives.values())
        twins = [p._single for p in self._relatives.values() if p._single is not None]
        return self.data.nbytes + self.factors.nbytes + graphs + sum(t.problem.nbytes + t.data_bytes for t in twins)

    @property
    def seconds_per_product(self) -> float | None:
        """What one Hessian-vector product takes, as measured in the solves so far; None before that."""
        return self._planner.seconds_per_product

    def pin(self, plan: Mapping[str, Any] | None) -> None:
        """Computes products by exactly this strategy from now on; without it a resumed solve rounds differently.

        Args:
            plan: ``info["strategy"]`` of an earlier solve, or what a checkpoint has kept of it; None chooses again.

        Raises:
            InvalidOption: It describes no strategy.
        """
        self._planner.pin(None if plan is None else Plan.of(plan))
        single = None if plan is None else plan.get("single")
        if single is not None:
            self.single_precision()
        if self._single is not None:
            self._single.problem.pin(single)

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

        Raises:
            UnsupportedLayer: The model cannot be differentiated twice; names the layer.
        """
        self._require_second_derivatives()
        others = [p for p in self._relatives.values() if p is not self]
        if self._planner.bytes_ahead + sum(p._graph_bytes for p in others) > self._planner.may_keep:
            for other in others:
                other._planner.forget()
                other._minibatches = None
        return self._planner.operator(expected_products, rows)

    def single_precision(self) -> Problem | None:
        """The same problem in float32, for a float64 solve to iterate on; None where it would not pay or not work.

        Made once and kept.

        Raises:
            UnsupportedLayer: The model cannot be differentiated twice; names the layer.
        """
        if not self._tried_single:
            self._require_second_derivatives()
            self._tried_single = True
            self._single = single_twin(self, self._planner.bytes_ahead)
        return None if self._single is None else self._single.problem

    def chunk_points(self) -> int:
        """How many points a pass may hold at a time within the memory budget."""
        return self._planner.chunk_points()

    def minibatches(self) -> MinibatchHessians:
        """Unbiased estimates of H, one a batch of the training data as it was given."""
        if self._minibatches is None:
            fits = self._planner.bytes_ahead <= self._planner.may_keep
            self._minibatches = MinibatchHessians(self._chunks, self.data, self.chunk_points(), keep=fits)
        return self._minibatches

    def factor_key(self, key: str) -> str:
        """The key of a factor among those of every curvature that shares the cache."""
        return f"{self._chunks.key}: {key}"

    def kept_factors(self) -> list[str]:
        """What factors of this curvature are kept, without those of others that share the cache."""
        own = self.factor_key("")
        return [key.removeprefix(own) for key in self.factors.held() if key.startswith(own)]

    def _require_second_derivatives(self) -> None:
        if not self._differentiable and self.strategy not in ("forward", "linearized"):
            require_second_derivatives(self._chunks, next(self.data.chunks(1)))
        self._differentiable = True

    @property
    def _graph_bytes(self) -> int:
        stochastic = (
            0 if self._minibatches is None else int(self._minibatches.points_kept * self._planner.bytes_per_point)
        )
        return self._planner.nbytes + stochastic

    def _chunks_of(self, kind: Curvature, seed: int) -> ChunkCurvature:
        divisor = self.data.total_weight if kind is Curvature.EmpiricalFisher else self.denominator
        return ChunkCurvature(kind, self.snapshot, self.terms, divisor, seed)

    def _take(self, chunks: ChunkCurvature) -> None:
        """Makes this curvature the problem's own."""
        self.curvature = chunks.kind
        self._chunks = chunks
        self._planner = Planner(chunks, self.data, self.memory_budget, self.strategy, self._survey.seconds)
        self._minibatches = None
        self._differentiable = False
        self._single = None
        self._tried_single = False
        self.products_spent = 0.0
        self.recycled = RecycledSpace(self.memory_budget // 4)
        self._relatives[chunks.key] = self
