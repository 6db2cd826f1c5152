"""The curvature of the mean loss over all training points."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from solvers.batch import Batch
from solvers.data import TrainingData
from solvers.kernels import twice_differentiable_kernels
from solvers.operators.chunk_curvature import ChunkCurvature
from solvers.operators.plan import Plan
from solvers.operators.products import ChunkProduct
from solvers.out_of_memory import free_cached, until_it_fits
from solvers.snapshot import ModelSnapshot

__all__ = ["CurvatureOperator", "KeptProducts", "add_products"]


@dataclass
class KeptProducts:
    """The products of the first chunks of a plan, in order; ``complete`` once they are those of all chunks."""

    products: list[ChunkProduct] = field(default_factory=list)
    complete: bool = False


class CurvatureOperator:
    """H as a linear operator: a sum over chunks, divided once, so that batching never shows.

    Where the device runs out of memory the chunks are halved, and halved again; ``plan`` then says so.

    Args:
        curvature: What H is.
        data: The training points.
        plan: How to compute the products.
        kept: Products of the plan's chunks that exist already.

    Attributes:
        products_done: Vectors multiplied so far, counted in passes over all points.
        kept: The chunks' products, where the plan keeps them.
    """

    def __init__(
        self, curvature: ChunkCurvature, data: TrainingData, plan: Plan, kept: KeptProducts | None = None
    ) -> None:
        self.plan = plan
        self.products_done = 0.0
        self.kept = kept or KeptProducts()
        self._curvature = curvature
        self._data = data
        self._timed = (0.0, 0)

    @property
    def size(self) -> int:
        """The length p of a vector."""
        return self._curvature.snapshot.num_params

    @property
    def seconds_per_product(self) -> float | None:
        """What a product has taken, set-up left out; None before that is known."""
        seconds, vectors = self._timed
        return seconds / vectors if vectors else None

    def __call__(self, V: Tensor, *, accumulate: torch.dtype | None = None) -> Tensor:
        """H applied to each row of ``V`` ``[k, p]``; sums over chunks in ``accumulate``.

        Raises:
            OutOfMemory: Not even one point fits.
        """
        began = time.perf_counter()
        first, sets_up = self.plan, self.plan.keeps and not self.kept.complete
        total = until_it_fits(
            lambda: self._applied(V, accumulate or V.dtype),
            is_smallest=lambda: self.plan.chunk_points == self.plan.rows_at_once == 1 and not self.plan.keeps,
            halve=self._halve,
        )
        self.products_done += V.shape[0]
        if self.plan is first and not sets_up and V.device.type != "cuda":
            # There a call ends before the work does, and waiting for it would cost more than it is worth.
            seconds, vectors = self._timed
            self._timed = (seconds + time.perf_counter() - began, vectors + V.shape[0])
        return total.div_(self._curvature.divisor)

    def _applied(self, V: Tensor, dtype: torch.dtype) -> Tensor:
        total = torch.zeros(V.shape, dtype=dtype, device=V.device)
        with twice_differentiable_kernels():
            for product in self._products():
                add_products(total, product, V, self._curvature.snapshot, self.plan.rows_at_once)
        return total

    def _products(self) -> Iterator[ChunkProduct]:
        yield from self.kept.products
        if self.kept.complete:
            return
        there, first_point = len(self.kept.products), 0
        for index, batch in enumerate(self._streamed()):
            if index >= there:
                product = self._curvature.product(batch, first_point, self.plan.product)
                if self.plan.keeps:
                    self.kept.products.append(product)
                yield product
            first_point += batch.points
        self.kept.complete = self.plan.keeps

    def _streamed(self) -> Iterator[Batch]:
        return self._data.streamed(self.plan.chunk_points, self._curvature.snapshot.device)

    def _halve(self) -> None:
        plan = self.plan
        self.kept = KeptProducts()
        free_cached(self._curvature.snapshot.device)
        half = min(plan.chunk_points, self._data.num_points) // 2
        self.plan = replace(
            plan,
            product="recomputed" if plan.keeps else plan.product,
            rows_at_once=max(1, plan.rows_at_once // 2),
            chunk_points=max(1, half),
            why=f"{plan.why}; out of memory with {plan.chunk_points} points at a time, so half of them and none kept",
        )


def add_products(total: Tensor, product: ChunkProduct, V: Tensor, snapshot: ModelSnapshot, rows_at_once: int) -> None:
    """Adds a chunk's products with the rows of ``V`` ``[k, p]`` to ``total`` ``[k, p]``, in place."""
    if rows_at_once > 1 and V.shape[0] > 1:
        for rows, block in zip(torch.split(total, rows_at_once), torch.split(V, rows_at_once), strict=True):
            rows += snapshot.join(product.many(snapshot.split(block)), batch_dims=1)
        return
    for row, v in zip(total, V, strict=True):
        row += snapshot.join(product.one(snapshot.split(v)))
