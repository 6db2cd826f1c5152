"""Measures ways to compute products, side by side, on one chunk of the data."""

from __future__ import annotations

import time
from typing import Final

import torch
from torch import Tensor

from solvers.batch import Batch
from solvers.data import TrainingData
from solvers.kernels import twice_differentiable_kernels
from solvers.operators.chunk_curvature import ChunkCurvature
from solvers.operators.curvature import add_products
from solvers.operators.plan import Plan
from solvers.operators.products import ChunkProduct, OtherProducts

__all__ = ["Contest", "Trial", "failed", "name", "timed_rows", "too_large"]

ROWS_TIMED: Final = 4
REPEATS: Final = 2
LEAST_TIMED: Final = 0.005
"""Seconds below which a measurement is repeated, for the clock and the scheduler have their say in it."""
HOPELESS: Final = 1.5
"""This much slower in its first turn, a plan gets no other."""
BETTER: Final = 0.95
"""What another plan must be faster by."""
AS_GOOD: Final = 1.1
"""A recorded product does no more than the retained graph's and keeps less: slower by this is a clock's error."""


class Trial:
    """One plan at work on one chunk.

    Args:
        plan: The plan.
        curvature: What H is.
        batch: The first chunk of the plan.
        points: How many points there are altogether.
        product: The chunk's product where it exists already.

    Attributes:
        product: The chunk's product, where the plan keeps it.
    """

    def __init__(
        self, plan: Plan, curvature: ChunkCurvature, batch: Batch, points: int, product: ChunkProduct | None
    ) -> None:
        self.plan = plan
        self.product = product
        self._curvature = curvature
        self._batch = batch
        self._chunks = points / batch.points
        if product is None and plan.keeps:
            with twice_differentiable_kernels():
                self.product = curvature.product(batch, 0, plan.product)

    @property
    def kept_bytes(self) -> int:
        """What the linearisations of all chunks will keep, from this one's."""
        return int(getattr(self.product, "nbytes", 0) * self._chunks)

    def apply(self, V: Tensor) -> Tensor:
        """The chunk's products with rows ``[k, p]``, not divided."""
        total = torch.zeros_like(V)
        with twice_differentiable_kernels():
            product = self.product or self._curvature.product(self._batch, 0, self.plan.product)
            add_products(total, product, V, self._curvature.snapshot, self.plan.rows_at_once)
        return total

    def seconds(self, V: Tensor) -> float:
        """What a product over all points takes, from one run with these rows."""
        runs, began = 0, time.perf_counter()
        while True:
            self.apply(V)
            if V.device.type == "cuda":
                torch.cuda.synchronize(V.device)
            runs += 1
            elapsed = time.perf_counter() - began
            if elapsed > LEAST_TIMED:
                return elapsed / runs / V.shape[0] * self._chunks


class Contest:
    """Plans tried one after another against the best so far, each on its own first chunk.

    Args:
        curvature: What H is.
        data: The training points.
        rows: Vectors in a block of the solve ahead.
        may_keep: Bytes that linearisations may keep.

    Attributes:
        best: The best so far.
        seconds: What a product over all points takes with it.
        measured: Milliseconds a product by plan.
        notes: Why plans were not taken, where it was not for being slower.
    """

    best: Trial
    seconds: float

    def __init__(self, curvature: ChunkCurvature, data: TrainingData, rows: int, may_keep: int) -> None:
        self.measured: dict[str, float] = {}
        self.notes: list[str] = []
        self._curvature = curvature
        self._data = data
        self._may_keep = may_keep
        generator = torch.Generator().manual_seed(0)
        snapshot = curvature.snapshot
        V = torch.randn(min(rows, ROWS_TIMED), snapshot.num_params, generator=generator, dtype=snapshot.dtype)
        self._V = V.to(snapshot.device)
        self._references: dict[int, Tensor] = {}
        self._products: dict[tuple[str, int], ChunkProduct] = {}

    def start(self, plan: Plan, product: ChunkProduct | None) -> None:
        """Takes the plan in use as the first, and its products as the truth.

        Args:
            plan: The plan.
            product: That of its first chunk, if there is one.
        """
        if product is not None:
            self._products[plan.product, plan.chunk_points] = product
        self.best = self._trial(plan)
        self._check(self.best)
        self.seconds = min(self._run(self.best) for _ in range(REPEATS))
        self.measured[name(plan)] = self.seconds * 1e3

    def has_product(self, plan: Plan) -> bool:
        """Whether trying this plan needs no set-up."""
        return (plan.product, plan.chunk_points) in self._products

    def challenge(self, plan: Plan) -> None:
        """Makes the plan the best if it is faster, gives the same products and fits the budget."""
        try:
            trial = self._trial(plan)
            if trial.kept_bytes > self._may_keep:
                self.notes.append(too_large(plan, trial.kept_bytes, self._may_keep))
                return
            self._check(trial)
            turns: list[tuple[float, float]] = []
            # Taken in turns: what else the machine does, it does to both.
            while len(turns) < REPEATS and not (turns and turns[0][0] > HOPELESS * turns[0][1]):
                turns.append((self._run(trial), self._run(self.best)))
        except Exception as error:  # torch's tracer and its batching rules raise whatever they like
            self.notes.append(failed(plan, error))
            return
        found, self.seconds = min(a for a, _ in turns), min(b for _, b in turns)
        self.measured |= {name(plan): found * 1e3, name(self.best.plan): self.seconds * 1e3}
        recorded = (self.best.plan.product, trial.plan.product) == ("graph", "linearized")
        if found < (AS_GOOD if recorded else BETTER) * self.seconds:
            self.best, self.seconds = trial, found

    def _trial(self, plan: Plan) -> Trial:
        batch = next(self._data.chunks(plan.chunk_points))
        key = (plan.product, plan.chunk_points)
        trial = Trial(plan, self._curvature, batch, self._data.num_points, self._products.get(key))
        if trial.product is not None:
            self._products[key] = trial.product
        return trial

    def _run(self, trial: Trial) -> float:
        return trial.seconds(self._V[: timed_rows(trial.plan, len(self._V))])

    def _check(self, trial: Trial) -> None:
        """Compares with the first plan that was run on a chunk of this size, and warms up."""
        V = self._V[: timed_rows(trial.plan, len(self._V))]
        found = trial.apply(V)
        reference = self._references.setdefault(trial.plan.chunk_points, found)
        k = min(len(found), len(reference))
        scale = torch.finfo(V.dtype).eps ** 0.5
        difference = (found[:k] - reference[:k]).norm()
        if not bool(difference <= scale * reference[:k].norm() + torch.finfo(V.dtype).tiny):
            raise OtherProducts("gave other products")


def name(plan: Plan) -> str:
    """A plan in words, without its reasons."""
    rows = f" × {plan.rows_at_once} rows" if plan.rows_at_once > 1 else ""
    return f"{plan.product}{rows}, {plan.chunk_points} points"


def too_large(plan: Plan, needed: int, allowed: int) -> str:
    """What to say of a plan that would keep too much, in bytes."""
    return f"{name(plan)} would keep {needed} bytes, {allowed} are allowed"


def failed(plan: Plan, error: Exception) -> str:
    """What to say of a plan that was tried and failed."""
    said = (str(error).splitlines() or [""])[0][:120]
    return f"{name(plan)} {said if isinstance(error, OtherProducts) else f'failed ({type(error).__name__}: {said})'}"


def timed_rows(plan: Plan, rows: int) -> int:
    """Vectors in a run: those that share a pass, where a plan vectorises or makes one anew for each block."""
    shares = plan.rows_at_once > 1 or plan.product == "recomputed"
    return min(rows, ROWS_TIMED) if shares else 1
