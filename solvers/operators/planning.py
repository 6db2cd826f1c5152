"""Chooses how products are computed: by memory first, then by measurement where there is time to win."""

from __future__ import annotations

import functools
import sys
import time
from dataclasses import dataclass, replace
from typing import Final

import torch

from solvers.data import TrainingData
from solvers.kernels import twice_differentiable_kernels
from solvers.operators.chunk_curvature import ChunkCurvature
from solvers.operators.curvature import CurvatureOperator
from solvers.operators.plan import Plan, Strategy
from solvers.operators.products import ChunkProduct, graph_bytes

__all__ = ["Planner"]

PROBE_POINTS: Final = 64
ROWS_AT_ONCE: Final = 16
ROWS_TIMED: Final = 4
WORTH_BATCHING: Final = 200
"""Products ahead from which a vectorised pass is tried; trying costs about twenty."""
LINEARIZE_FIRST: Final = 2.0
LINEARIZE_AGAIN: Final = 0.4
"""Seconds to linearise a chunk; the first time in a process, torch imports its tracer as well."""
WORTH_LINEARIZING: Final = 8.0
"""A linearisation halves the cost of a product at best, so its set-up must be a small part of what is ahead."""
TRACER: Final = "torch._dynamo.eval_frame"


@dataclass
class Planner:
    """Makes the curvature operator of a problem and remembers what was measured.

    A solve that is predicted to be cheap gets the strategy without set-up cost. Work already done counts
    towards the prediction, so that a problem solved again and again ends up with the faster one.

    Args:
        curvature: What H is.
        data: The training points.
        memory_budget: Bytes that graphs or linearisations may take.
        strategy: ``auto``, or the product to use whatever it costs.
    """

    curvature: ChunkCurvature
    data: TrainingData
    memory_budget: int
    strategy: Strategy = "auto"

    def __post_init__(self) -> None:
        self._snapshot = self.curvature.snapshot
        self._operator: CurvatureOperator | None = None
        self._seconds = 0.0
        self._tried: set[str] = set()

    def operator(self, expected_products: int, rows: int) -> CurvatureOperator:
        """The operator for a solve of about so many products, in blocks of ``rows`` vectors."""
        if self._operator is None:
            self._operator = self._first()
        if self.strategy == "auto" and self._operator.plan.product != "recomputed":
            self._improve(expected_products, rows)
        return self._operator

    @functools.cached_property
    def bytes_per_point(self) -> float:
        """What a retained gradient graph keeps for one point, measured on a few."""
        batch = next(self.data.chunks(PROBE_POINTS))
        with twice_differentiable_kernels():
            total = graph_bytes(lambda: self.curvature.product(batch, 0, "graph"), self._snapshot.parameters)
        return total / batch[0].shape[0]

    def chunk_points(self) -> int:
        """Points in a chunk: a transient graph is in use beside what backward allocates, hence a quarter."""
        chunk = int(self.memory_budget / 4 / max(self.bytes_per_point, 1.0))
        return max(1, min(self.data.num_points, chunk))

    def _first(self) -> CurvatureOperator:
        needed = self.bytes_per_point * self.data.num_points
        cuda = self._snapshot.device.type == "cuda"
        if self.strategy == "auto":
            fits = needed <= self.memory_budget and self.data.in_memory
            product = "graph" if fits else "recomputed"
            why = f"gradient graphs need {needed:.3g} bytes, the budget is {self.memory_budget}"
        else:
            product, why = self.strategy, "asked for"
        plan = Plan(product, ROWS_AT_ONCE if cuda else 1, self.chunk_points(), why)  # type: ignore[arg-type]
        return self._with(plan)

    def _improve(self, expected_products: int, rows: int) -> None:
        assert self._operator is not None  # noqa: S101 - set by the only caller
        if self._tried >= {"batched", "linearized"}:
            return
        products = expected_products + self._operator.products_done
        if products < WORTH_BATCHING:
            return
        if not self._seconds:
            self._seconds = self._time(self._operator, 1)
        if "batched" not in self._tried and rows > 1:
            self._tried.add("batched")
            self._try(replace(self._operator.plan, rows_at_once=min(rows, ROWS_AT_ONCE)), self._operator)
        ahead = products * self._seconds
        chunks = -(-self.data.num_points // self._operator.plan.chunk_points)
        setup = LINEARIZE_AGAIN * chunks + (0.0 if TRACER in sys.modules else LINEARIZE_FIRST)
        if "linearized" not in self._tried and ahead > WORTH_LINEARIZING * setup:
            self._tried.add("linearized")
            self._try_linearized(rows)

    def _try(self, plan: Plan, other: CurvatureOperator) -> None:
        """Takes ``plan`` over the current operator if it is measured to be faster and agrees with it."""
        assert self._operator is not None  # noqa: S101
        candidate = self._with(plan, other._kept)
        try:
            seconds = self._time(candidate, min(plan.rows_at_once, ROWS_TIMED))
            agrees = self._agree(candidate, self._operator)
        except (RuntimeError, NotImplementedError) as error:
            self._note(f"{_name(plan)} failed ({str(error).splitlines()[0][:120]})")
            return
        if not agrees:
            self._note(f"{_name(plan)} gave other products")
        elif seconds < 0.9 * self._seconds:
            measured = f"{seconds * 1e3:.2f} ms a product, {_name(self._operator.plan)} {self._seconds * 1e3:.2f}"
            candidate.plan = replace(plan, why=f"measured {measured}")
            candidate.products_done = self._operator.products_done
            self._operator, self._seconds = candidate, seconds
        else:
            self._note(f"{_name(plan)} measured slower: {seconds * 1e3:.2f} ms, not {self._seconds * 1e3:.2f}")

    def _try_linearized(self, rows: int) -> None:
        assert self._operator is not None  # noqa: S101
        plan = replace(self._operator.plan, product="linearized", rows_at_once=1)
        products: list[ChunkProduct] = []
        held = points = 0
        try:
            with twice_differentiable_kernels():
                for batch in self.data.chunks(plan.chunk_points):
                    product = self.curvature.product(batch, points, "linearized")
                    points += batch[0].shape[0]
                    products.append(product)
                    held += getattr(product, "nbytes", 0)
                    if held > self.memory_budget:
                        self._note(f"linearisations need more than the budget of {self.memory_budget} bytes")
                        return
        except Exception as error:
            self._note(f"linearising failed ({type(error).__name__}: {str(error).splitlines()[0][:120]})")
            return
        linearized = self._with(plan, products)
        self._try(plan, linearized)
        if rows > 1 and "batched" in self._tried and self._operator.plan.rows_at_once > 1:
            self._try(replace(plan, rows_at_once=min(rows, ROWS_AT_ONCE)), linearized)

    def _with(self, plan: Plan, products: list[ChunkProduct] | None = None) -> CurvatureOperator:
        return CurvatureOperator(self.curvature, self.data, plan, products)

    def _time(self, operator: CurvatureOperator, rows: int) -> float:
        """Seconds a vector: the better of two runs after one that warms up."""
        V = self._probe(rows)
        best = float("inf")
        operator(V)
        for _ in range(2):
            started = time.perf_counter()
            operator(V)
            if V.device.type == "cuda":
                torch.cuda.synchronize(V.device)
            best = min(best, time.perf_counter() - started)
        return best / rows

    def _agree(self, a: CurvatureOperator, b: CurvatureOperator) -> bool:
        """Whether two ways to compute the same product do: guards against a trace gone stale or wrong."""
        V = self._probe(2)
        first, second = a(V), b(V)
        scale = torch.finfo(V.dtype).eps ** 0.5
        return bool((first - second).norm() <= scale * second.norm() + torch.finfo(V.dtype).tiny)

    def _probe(self, rows: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        V = torch.randn(rows, self._snapshot.num_params, generator=generator, dtype=self._snapshot.dtype)
        return V.to(self._snapshot.device)

    def _note(self, text: str) -> None:
        assert self._operator is not None  # noqa: S101
        plan = self._operator.plan
        self._operator.plan = replace(plan, why=f"{plan.why}; {text}")


def _name(plan: Plan) -> str:
    return plan.product + (f" × {plan.rows_at_once} rows" if plan.rows_at_once > 1 else "")
