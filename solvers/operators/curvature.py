"""The curvature of the mean loss over all training points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from solvers.data import TrainingData
from solvers.kernels import twice_differentiable_kernels
from solvers.operators.chunk_curvature import ChunkCurvature
from solvers.operators.plan import Plan
from solvers.operators.products import ChunkProduct
from solvers.snapshot import ModelSnapshot

__all__ = ["CurvatureOperator", "add_products"]


class CurvatureOperator:
    """H as a linear operator: a sum over chunks, divided once, so that batching never shows.

    Args:
        curvature: What H is.
        data: The training points.
        plan: How to compute the products.
        products: Products of the plan's chunks where they exist already, in order.

    Attributes:
        products_done: Vectors multiplied so far, counted in passes over all points.
    """

    def __init__(
        self,
        curvature: ChunkCurvature,
        data: TrainingData,
        plan: Plan,
        products: Sequence[ChunkProduct] | None = None,
    ) -> None:
        self.plan = plan
        self.products_done = 0.0
        self._curvature = curvature
        self._data = data
        self._kept = None if products is None else list(products)

    @property
    def size(self) -> int:
        """The length p of a vector."""
        return self._curvature.snapshot.num_params

    def __call__(self, V: Tensor, *, accumulate: torch.dtype | None = None) -> Tensor:
        """H applied to each row of ``V`` ``[k, p]``; sums over chunks in ``accumulate``."""
        total = torch.zeros(V.shape, dtype=accumulate or V.dtype, device=V.device)
        with twice_differentiable_kernels():
            for product in self._products():
                add_products(total, product, V, self._curvature.snapshot, self.plan.rows_at_once)
        self.products_done += V.shape[0]
        return total.div_(self._curvature.divisor)

    def _products(self) -> Iterator[ChunkProduct]:
        if self._kept is not None:
            yield from self._kept
            return
        keep: list[ChunkProduct] = []
        first_point = 0
        for batch in self._data.chunks(self.plan.chunk_points):
            product = self._curvature.product(batch, first_point, self.plan.product)
            first_point += batch[0].shape[0]
            if self.plan.keeps:
                keep.append(product)
            yield product
        if self.plan.keeps:
            self._kept = keep


def add_products(total: Tensor, product: ChunkProduct, V: Tensor, snapshot: ModelSnapshot, rows_at_once: int) -> None:
    """Adds a chunk's products with the rows of ``V`` ``[k, p]`` to ``total`` ``[k, p]``, in place."""
    if rows_at_once > 1:
        for rows, block in zip(torch.split(total, rows_at_once), torch.split(V, rows_at_once), strict=True):
            rows += snapshot.join(product.many(snapshot.split(block)), batch_dims=1)
        return
    for row, v in zip(total, V, strict=True):
        row += snapshot.join(product.one(snapshot.split(v)))
