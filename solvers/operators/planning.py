"""Chooses how products are computed: by memory first, then by measurement where there is time to win."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, TypeVar

import torch

from solvers.batch import Batch
from solvers.data import TrainingData
from solvers.kernels import twice_differentiable_kernels
from solvers.operators.chunk_curvature import ChunkCurvature
from solvers.operators.curvature import CurvatureOperator, KeptProducts
from solvers.operators.plan import Plan, ProductKind, Strategy
from solvers.operators.products import ChunkProduct, GraphSize, LinearizedProduct, graph_size, is_batched
from solvers.operators.trials import Contest, Trial, failed, name, timed_rows, too_large
from solvers.out_of_memory import Portions, is_out_of_memory

__all__ = ["Planner"]

T = TypeVar("T")

PROBE_POINTS: Final = 64
ROWS_AT_ONCE: Final = 16
CACHED_CHUNK: Final = 48 * 2**20
"""Bytes of a chunk's graph that processor caches still help with; larger chunks may gain from being cut."""
KEPT_SHARE: Final = 0.4
"""What part of the budget products may keep. Freed memory in pieces of the wrong size takes up to a third."""
CHUNK_SHARE: Final = 0.3
"""What part of it the graph of a chunk may take together with what a product by it allocates."""
ALLOCATED: Final = 2.0
"""What that is for one vector, in graphs; to record a product takes as much."""
SHARE: Final = 0.05
LINEARIZED_SHARE: Final = 0.125
"""What part of the time that is predicted for a solve may go into measuring; a linearisation halves it at best."""
FIRST_SHARE: Final = 0.25
"""What part of it a record may take that nothing is measured for: it is never slower than what was recorded."""
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
"""Products whose time a record takes beside: a graph, a product by it, and the same by the record."""


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
        self.num_points = data.num_points
        self.memory_budget = memory_budget
        self.strategy = strategy
        self.pinned: Plan | None = None
        self._forward_seconds = forward_seconds
        self._operators: dict[bool, CurvatureOperator] = {}
        self._tried: set[tuple[bool, str]] = set()
        self._not_recorded = ""
        self._latest: bool | None = None
        self._cuda = curvature.snapshot.device.type == "cuda"

    def operator(self, expected_products: int, rows: int) -> CurvatureOperator:
        """The operator for a solve of about so many products, in blocks of ``rows`` vectors."""
        block = rows > 1
        self._latest = block
        if self.pinned is not None:
            self._follow(block, self.pinned)
        elif block not in self._operators:
            self._operators[block] = self._first(expected_products, rows)
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
            return GraphSize(size.nbytes / batch.points, size.saved)

        return self._of_few_points(of_points)

    @property
    def bytes_per_point(self) -> float:
        """What a retained graph keeps for one point, measured on a few."""
        return self._graph.nbytes

    def chunk_points(self, rows_at_once: int = 1) -> int:
        """Points in a chunk that so many vectors go through at a time."""
        allocated = 1 + ALLOCATED * rows_at_once
        return self._points_of(CHUNK_SHARE * self.memory_budget / allocated)

    @property
    def may_keep(self) -> int:
        """Bytes that graphs or linearisations may keep."""
        return int(KEPT_SHARE * self.memory_budget)

    @property
    def seconds_per_product(self) -> float | None:
        """What a product takes, as measured in the latest kind of solve; None before that."""
        operator = None if self._latest is None else self._operators.get(self._latest)
        return None if operator is None else operator.seconds_per_product or self._measured(operator.plan)

    @property
    def bytes_ahead(self) -> float:
        """Bytes of the retained graphs of all points, whether they are kept or not."""
        return self.bytes_per_point * self.num_points

    @property
    def nbytes(self) -> int:
        """Bytes of the graphs and linearisations that are kept now."""
        found = 0.0
        for kept, plan in {id(o.kept): (o.kept, o.plan) for o in self._operators.values()}.values():
            points = min(len(kept.products) * plan.chunk_points, self.num_points)
            traced = sum(getattr(product, "nbytes", 0) for product in kept.products)
            graphs = 0.0 if plan.product == "linearized" else points * self.bytes_per_point
            found += traced + (graphs if points else 0.0)
        return int(found)

    def forget(self) -> None:
        """Drops the graphs and linearisations; they are made again when they are needed."""
        for operator in self._operators.values():
            operator.kept = KeptProducts()

    def _points_of(self, nbytes: float) -> int:
        return max(1, min(self.num_points, int(nbytes / max(self.bytes_per_point, 1.0))))

    def _follow(self, block: bool, plan: Plan) -> None:
        """Takes exactly this plan, with what is kept of it."""
        operator = self._operators.get(block)
        if operator is None or _way(operator.plan) != _way(plan):
            self._operators[block] = self._with(plan)

    def _first(self, expected: int, rows: int) -> CurvatureOperator:
        """The operator of the other kind of solve where that is recorded, or a record, or what needs no set-up."""
        block = rows > 1
        other = self._operators.get(not block)
        product, why = self._product_without_set_up, self._why_kept
        if self.strategy != "auto":
            product, why = self.strategy, "asked for"
        at_once = self._rows_untried(rows)
        plan = Plan(product, at_once, self.chunk_points(at_once), why)
        if self.strategy != "auto":
            return self._with(plan)
        if other is not None and other.plan.product == "linearized":
            first = next(iter(other.kept.products), None)
            return self._with(replace(other.plan, rows_at_once=self._rows_of(first, rows)))
        recorded = replace(plan, product="linearized", why="recorded in less time than it saves")
        guess = PRODUCT_PER_FORWARD * self._forward_seconds
        if plan.keeps and self._cost_of_record(recorded, guess) <= FIRST_SHARE * expected * guess:
            first = self._record(recorded)
            if first is not None:
                return self._with(replace(recorded, rows_at_once=self._rows_of(first, rows)), first)
            plan = replace(plan, why=f"{plan.why}; {self._not_recorded}")
        if other is not None and other.plan.keeps and other.plan.chunk_points <= plan.chunk_points:
            plan = replace(other.plan, rows_at_once=plan.rows_at_once)
        return self._with(plan)

    @property
    def _product_without_set_up(self) -> ProductKind:
        return "graph" if self.bytes_ahead <= self.may_keep and self.data.in_memory else "recomputed"

    @property
    def _why_kept(self) -> str:
        needed = f"gradient graphs need {self.bytes_ahead:.3g} bytes, {self.may_keep} may be kept"
        return f"{needed}: the budget is {self.memory_budget}"

    def _record(self, plan: Plan) -> ChunkProduct | None:
        """The record of the first chunk; None where there can be none, or all would take too much memory."""
        try:
            trial = Trial(plan, self.curvature, next(self.data.chunks(plan.chunk_points)), self.num_points, None)
        except Exception as error:  # whatever an author's backward pass does: the retained graph does it each time
            self._not_recorded = failed(plan, error)
            return None
        if trial.kept_bytes > self.may_keep:
            self._not_recorded = too_large(plan, trial.kept_bytes, self.may_keep)
            return None
        return trial.product

    def _rows_untried(self, rows: int) -> int:
        return ROWS_AT_ONCE if self._cuda and rows > 1 else 1

    def _rows_of(self, product: ChunkProduct | None, rows: int) -> int:
        """Vectors at once through a record: all where caches hold that much and torch batches each operation."""
        if self._cuda or rows == 1 or not self._is_cached(rows) or not isinstance(product, LinearizedProduct):
            return self._rows_untried(rows)
        parameters = self.curvature.snapshot.parameters
        return rows if is_batched(product, tuple(torch.stack([p, p]) for p in parameters)) else 1

    def _is_cached(self, rows: int) -> bool:
        return self.bytes_ahead * rows <= CACHED_CHUNK and self.chunk_points(rows) == self.num_points

    def _of_few_points(self, found: Callable[[Batch], T]) -> T:
        """What a few points show; fewer where memory has no room for them."""
        portions = Portions(PROBE_POINTS, self.curvature.snapshot.device)
        with twice_differentiable_kernels():
            return next(portions.each(next(self.data.chunks(PROBE_POINTS)), found))

    def _with(self, plan: Plan, first: ChunkProduct | None = None) -> CurvatureOperator:
        """An operator by this plan, with what is kept of it, and the product of its first chunk where there is one."""
        kept = next(
            (o.kept for o in self._operators.values() if _chunks(o.plan) == _chunks(plan) and plan.keeps), None
        )
        made = CurvatureOperator(self.curvature, self.data, plan, kept)
        if first is not None and not made.kept.products:
            made.kept.products.append(first)
            made.kept.complete = plan.chunk_points >= self.num_points
        return made

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
        contest = Contest(self.curvature, self.data, rows, self.may_keep)
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
        many = rows if self._is_cached(rows) else min(rows, ROWS_AT_ONCE)
        # As many at once as now first; one after another in any case, for many vectors may overflow the caches.
        ways = dict.fromkeys((many,) if self._cuda else (min(plan.rows_at_once, many), 1, many))
        if plan.keeps:
            kept = [replace(plan, rows_at_once=n, chunk_points=points) for n in ways for points in self._sizes(n)]
            recorded = [] if self._not_recorded else [replace(other, product="linearized") for other in kept]
            # Where it could not be recorded: autograd does the same operations and more.
            yield from (p for p in [*recorded, *(kept if plan.product == "graph" else [])] if _way(p) != _way(plan))
            return
        yield replace(plan, product="forward", rows_at_once=1)
        cached, *larger = self._sizes(plan.rows_at_once)
        if larger:
            yield replace(plan, chunk_points=cached)
        if many > 1:
            together = replace(plan, rows_at_once=many, chunk_points=self.chunk_points(many))
            yield replace(together, product="recomputed")
            yield replace(together, product="forward")

    def _sizes(self, rows_at_once: int) -> tuple[int, ...]:
        """Sizes of chunks worth trying: what caches hold where there is much more, and as much as memory allows."""
        cached, whole = self._points_of(CACHED_CHUNK), self.chunk_points(rows_at_once)
        return (cached, whole) if not self._cuda and whole > 2 * cached else (whole,)

    def _cost(self, plan: Plan, seconds: float, rows: int, *, ready: bool = False) -> float:
        """Seconds that trying a plan will take where a product takes as long as it does now."""
        share = min(1.0, plan.chunk_points / self.num_points)
        cost = TRIAL * seconds * share * timed_rows(plan, rows)
        if plan.product == "forward" and COMPILER not in sys.modules:
            cost += COMPILER_SECONDS
        if plan.product == "linearized" and not ready:
            cost += self._cost_of_record(plan, seconds)
        return cost

    def _cost_of_record(self, plan: Plan, seconds: float) -> float:
        chunks = -(-self.num_points // plan.chunk_points)
        return chunks * LINEARIZE_SAVED * self._graph.saved + LINEARIZE_PRODUCTS * seconds

    def _adopt(self, block: bool, contest: Contest) -> None:
        before, best = self._operators[block], contest.best
        measured = {**before.plan.measured, **contest.measured}
        why = f"{name(best.plan)} measured best of {len(measured)}" if len(measured) > 1 else before.plan.why
        plan = replace(best.plan, why="; ".join([why, *contest.notes]), measured=measured)
        if _way(plan) == _way(before.plan):
            before.plan = plan
            return
        chosen = self._with(plan, best.product)
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
