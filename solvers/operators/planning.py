"""Chooses how products are computed: by memory first, then by measurement where there is time to win."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, TypeVar

import torch

from solvers.data import Batch, TrainingData
from solvers.kernels import twice_differentiable_kernels
from solvers.operators.chunk_curvature import ChunkCurvature
from solvers.operators.curvature import CurvatureOperator, KeptProducts
from solvers.operators.gauss_newton import GraphGaussNewton
from solvers.operators.plan import Plan, Strategy
from solvers.operators.products import GraphProduct, GraphSize, graph_size, is_batched
from solvers.operators.trials import Contest, name, timed_rows
from solvers.out_of_memory import Portions, is_out_of_memory

__all__ = ["Planner"]

T = TypeVar("T")

PROBE_POINTS: Final = 64
ROWS_AT_ONCE: Final = 16
CACHED_CHUNK: Final = 48 * 2**20
"""Bytes of a chunk's graph that processor caches still help with; larger chunks may gain from being cut."""
SHARE: Final = 0.05
LINEARIZED_SHARE: Final = 0.125
"""What part of the time that is predicted for a solve may go into measuring; a linearisation halves it at best."""
LEAST_AHEAD: Final = 0.05
"""Seconds ahead below which nothing is measured."""
PRODUCT_PER_FORWARD: Final = 4.0
"""About how many passes forward a product takes, to tell whether it is worth being measured."""
TRIAL: Final = 4.0
"""Products that trying a plan takes beside its set-up: one to warm up, then turns with the plan in use."""
COMPILER: Final = "torch._dynamo.eval_frame"
COMPILER_SECONDS: Final = 2.0
"""What torch imports for its forward mode, and for how long, once a process."""
LINEARIZE_SAVED: Final = 0.0005
"""Seconds to record and rewrite what leads to one saved tensor."""
LINEARIZE_PRODUCTS: Final = 3.0
"""Products whose time the computations while recording take: a graph and one product by it."""


class Planner:
    """Makes the curvature operators of a problem and remembers what was measured.

    A solve that is predicted to be cheap gets the strategy without set-up cost. Work already done counts
    towards the prediction, so that a problem solved again and again ends up with the faster one. Single vectors
    and blocks of them have a plan each.

    Args:
        curvature: What H is.
        data: The training points.
        memory_budget: Bytes that graphs or linearisations may take.
        strategy: ``auto``, or the product to use whatever it costs.
        forward_seconds: What one pass forward over all points took.
    """

    def __init__(
        self,
        curvature: ChunkCurvature,
        data: TrainingData,
        memory_budget: int,
        strategy: Strategy = "auto",
        forward_seconds: float = 0.0,
    ) -> None:
        self.curvature = curvature
        self.data = data
        self.memory_budget = memory_budget
        self.strategy = strategy
        self.pinned: Plan | None = None
        self._forward_seconds = forward_seconds
        self._operators: dict[bool, CurvatureOperator] = {}
        self._tried: set[tuple[bool, str]] = set()
        self._latest: bool | None = None
        self._cuda = curvature.snapshot.device.type == "cuda"

    def operator(self, expected_products: int, rows: int) -> CurvatureOperator:
        """The operator for a solve of about so many products, in blocks of ``rows`` vectors."""
        block = rows > 1
        self._latest = block
        if self.pinned is not None:
            self._follow(block, self.pinned)
        elif block not in self._operators:
            self._operators[block] = self._with(self._first(block, rows))
        if self.pinned is None and self.strategy == "auto":
            self._improve(block, expected_products, rows)
        return self._operators[block]

    def pin(self, plan: Plan | None) -> None:
        """Uses exactly this plan from now on; None chooses anew, by what was not asked for."""
        if plan is None and self.pinned is not None:
            self._operators.clear()
        self.pinned = plan

    @functools.cached_property
    def _graph(self) -> GraphSize:
        """The size of a retained graph of a few points."""
        snapshot = self.curvature.snapshot

        def of_points(batch: Batch) -> GraphSize:
            size = graph_size(lambda: self.curvature.product(batch, 0, "graph"), snapshot.parameters)
            return GraphSize(size.nbytes / batch[0].shape[0], size.saved)

        return self._of_few_points(of_points)

    @property
    def bytes_per_point(self) -> float:
        """What a retained graph keeps for one point, measured on a few."""
        return self._graph.nbytes

    def chunk_points(self) -> int:
        """Points in a chunk: a transient graph is in use beside what backward allocates, hence a quarter."""
        return self._points_of(self.memory_budget / 4)

    @property
    def seconds_per_product(self) -> float | None:
        """What a product takes, as measured in the latest kind of solve; None before that."""
        operator = None if self._latest is None else self._operators.get(self._latest)
        return None if operator is None else operator.seconds_per_product or self._measured(operator.plan)

    @property
    def bytes_ahead(self) -> float:
        """Bytes of the retained graphs of all points, whether they are kept or not."""
        return self.bytes_per_point * self.data.num_points

    @property
    def nbytes(self) -> int:
        """Bytes of the graphs and linearisations that are kept now."""
        found = 0.0
        for kept, plan in {id(o.kept): (o.kept, o.plan) for o in self._operators.values()}.values():
            points = min(len(kept.products) * plan.chunk_points, self.data.num_points)
            traced = sum(getattr(product, "nbytes", 0) for product in kept.products)
            graphs = 0.0 if plan.product == "linearized" else points * self.bytes_per_point
            found += traced + (graphs if points else 0.0)
        return int(found)

    def forget(self) -> None:
        """Drops the graphs and linearisations; they are made again when they are needed."""
        for operator in self._operators.values():
            operator.kept = KeptProducts()

    def _points_of(self, nbytes: float) -> int:
        return max(1, min(self.data.num_points, int(nbytes / max(self.bytes_per_point, 1.0))))

    def _follow(self, block: bool, plan: Plan) -> None:
        """Takes exactly this plan, with what is kept of it."""
        operator = self._operators.get(block)
        if operator is None or _way(operator.plan) != _way(plan):
            self._operators[block] = self._with(plan)

    def _first(self, block: bool, rows: int) -> Plan:
        """The plan that costs nothing to set up; that of the other kind of solve where it is kept."""
        rows = self._rows_untried(rows) if block else 1
        other = self._operators.get(not block)
        if other is not None and other.plan.keeps:
            return replace(other.plan, rows_at_once=rows)
        if self.strategy != "auto":
            return Plan(self.strategy, rows, self.chunk_points(), "asked for")
        needed = self.bytes_ahead
        fits = needed <= self.memory_budget and self.data.in_memory
        why = f"gradient graphs need {needed:.3g} bytes, the budget is {self.memory_budget}"
        return Plan("graph" if fits else "recomputed", rows, self.chunk_points(), why)

    def _rows_untried(self, rows: int) -> int:
        """Vectors at once where nothing was measured: all where caches hold the graph that often, else one."""
        if self._cuda:
            return ROWS_AT_ONCE
        return rows if self._is_cached(rows) and self._is_batched else 1

    def _is_cached(self, rows: int) -> bool:
        return self.bytes_ahead * rows <= min(CACHED_CHUNK, self.memory_budget / 4)

    @functools.cached_property
    def _is_batched(self) -> bool:
        parameters = self.curvature.snapshot.parameters

        def of_points(batch: Batch) -> bool:
            product = self.curvature.product(batch, 0, "graph")
            assert isinstance(product, (GraphProduct, GraphGaussNewton))  # noqa: S101 - asked for by name
            return is_batched(product, tuple(torch.stack([p, p]) for p in parameters))

        return self._of_few_points(of_points)

    def _of_few_points(self, found: Callable[[Batch], T]) -> T:
        """What a few points show; fewer where memory has no room for them."""
        portions = Portions(PROBE_POINTS, self.curvature.snapshot.device)
        with twice_differentiable_kernels():
            return next(portions.each(next(self.data.chunks(PROBE_POINTS)), found))

    def _with(self, plan: Plan) -> CurvatureOperator:
        kept = next(
            (o.kept for o in self._operators.values() if _chunks(o.plan) == _chunks(plan) and plan.keeps), None
        )
        return CurvatureOperator(self.curvature, self.data, plan, kept)

    def _improve(self, block: bool, expected: int, rows: int) -> None:
        """Measures other plans as far as the solve ahead is long enough to earn it back."""
        operator = self._operators[block]
        products = expected + sum(o.products_done for o in self._operators.values())
        guess = self.seconds_per_product or PRODUCT_PER_FORWARD * self._forward_seconds
        new = [plan for plan in self._others(operator.plan, rows) if (block, name(plan)) not in self._tried]
        start = self._cost(operator.plan, guess, rows, ready=True)
        if products * guess < LEAST_AHEAD or not any(
            start + self._cost(plan, guess, rows) <= products * guess * _share(plan) for plan in new
        ):
            return
        began = time.perf_counter()
        contest = Contest(self.curvature, self.data, rows, self.memory_budget)
        try:
            contest.start(operator.plan, next(iter(operator.kept.products), None))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return  # the operator halves its chunks when it is applied
        for plan in new:
            if plan.product == "graph" and contest.has_product(replace(plan, product="linearized")):
                continue
            cost = self._cost(plan, contest.seconds, rows, ready=contest.has_product(plan))
            if time.perf_counter() - began + cost <= products * contest.seconds * _share(plan):
                self._tried.add((block, name(plan)))
                contest.challenge(plan)
        self._adopt(block, contest)

    def _others(self, plan: Plan, rows: int) -> Iterator[Plan]:
        """Plans to be tried against the one in use, cheap ones first."""
        whole = self.chunk_points()
        many = rows if self._is_cached(rows) else min(rows, ROWS_AT_ONCE)
        cached = self._points_of(CACHED_CHUNK)
        # As many at once as now first; one after another in any case, for many vectors may overflow the caches.
        ways = dict.fromkeys((many,) if self._cuda else (min(plan.rows_at_once, many), 1, many))
        chunks = (cached, whole) if not self._cuda and whole > 2 * cached else (whole,)
        if plan.keeps:
            kept = [replace(plan, rows_at_once=n, chunk_points=points) for n in ways for points in chunks]
            yield from (replace(other, product="linearized") for other in kept)
            # Where it could not be recorded: autograd does the same operations and more.
            yield from (other for other in kept if plan.product == "graph" and _way(other) != _way(plan))
            return
        yield replace(plan, product="forward", rows_at_once=1)
        if len(chunks) > 1:
            yield replace(plan, chunk_points=cached)
        if many > 1:
            yield replace(plan, product="recomputed", rows_at_once=many)
            yield replace(plan, product="forward", rows_at_once=many)

    def _cost(self, plan: Plan, seconds: float, rows: int, *, ready: bool = False) -> float:
        """Seconds that trying a plan will take where a product takes as long as it does now."""
        share = min(1.0, plan.chunk_points / self.data.num_points)
        cost = TRIAL * seconds * share * timed_rows(plan, rows)
        if plan.product == "forward" and COMPILER not in sys.modules:
            cost += COMPILER_SECONDS
        if plan.product == "linearized" and not ready:
            chunks = -(-self.data.num_points // plan.chunk_points)
            cost += chunks * LINEARIZE_SAVED * self._graph.saved + LINEARIZE_PRODUCTS * seconds
        return cost

    def _adopt(self, block: bool, contest: Contest) -> None:
        before, best = self._operators[block], contest.best
        measured = {**before.plan.measured, **contest.measured}
        why = f"{name(best.plan)} measured best of {len(measured)}" if len(measured) > 1 else before.plan.why
        plan = replace(best.plan, why="; ".join([why, *contest.notes]), measured=measured)
        if _way(plan) == _way(before.plan):
            before.plan = plan
            return
        chosen = self._with(plan)
        if best.product is not None and not chosen.kept.products:
            chosen.kept.products.append(best.product)
            chosen.kept.complete = plan.chunk_points >= self.data.num_points
        chosen.products_done = before.products_done
        self._operators[block] = chosen

    @staticmethod
    def _measured(plan: Plan) -> float | None:
        found = plan.measured.get(name(plan))
        return None if found is None else found / 1e3


def _share(plan: Plan) -> float:
    return LINEARIZED_SHARE if plan.product == "linearized" else SHARE


def _chunks(plan: Plan) -> tuple[str, int]:
    """What decides the products of the chunks."""
    return plan.product, plan.chunk_points


def _way(plan: Plan) -> tuple[str, int, int]:
    """All that decides how a product is computed, to the last bit."""
    return plan.product, plan.chunk_points, plan.rows_at_once
