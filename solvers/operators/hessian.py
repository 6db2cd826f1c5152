"""The Hessian of the mean loss over all training points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from solvers.data import Batch, TrainingData
from solvers.kernels import twice_differentiable_kernels
from solvers.losses import LossTerms
from solvers.operators.plan import Plan
from solvers.operators.products import ChunkProduct, GraphProduct, LinearizedProduct, Objective
from solvers.snapshot import ModelSnapshot

__all__ = ["Hessian", "add_products", "chunk_objective"]


def chunk_objective(snapshot: ModelSnapshot, terms: LossTerms, batch: Batch) -> Objective:
    """The numerator of the loss on a chunk, as a function of the parameters."""
    x, y = (part.to(snapshot.device) for part in batch)
    return lambda parameters: terms.numerator(snapshot.outputs(parameters, x), y)


class Hessian:
    """H = ∇² Σ numerator / Σ denominator, summed over chunks, so that batching never shows.

    Args:
        snapshot: The model at the parameters where H is taken.
        terms: How the loss normalises.
        data: The training points.
        denominator: Σ denominator over all points.
        plan: How to compute the products.
        products: Products of the plan's chunks where they exist already, in order.

    Attributes:
        products_done: Vectors multiplied so far, counted in passes over all points.
    """

    def __init__(
        self,
        snapshot: ModelSnapshot,
        terms: LossTerms,
        data: TrainingData,
        denominator: float,
        plan: Plan,
        products: Sequence[ChunkProduct] | None = None,
    ) -> None:
        self.plan = plan
        self.products_done = 0.0
        self._snapshot = snapshot
        self._terms = terms
        self._data = data
        self._denominator = denominator
        self._kept = None if products is None else list(products)

    @property
    def size(self) -> int:
        """The length p of a vector."""
        return self._snapshot.num_params

    def __call__(self, V: Tensor, *, accumulate: torch.dtype | None = None) -> Tensor:
        """H applied to each row of ``V`` ``[k, p]``; sums over chunks in ``accumulate``."""
        total = torch.zeros(V.shape, dtype=accumulate or V.dtype, device=V.device)
        with twice_differentiable_kernels():
            for product in self._products():
                add_products(total, product, V, self._snapshot, self.plan.rows_at_once)
        self.products_done += V.shape[0]
        return total.div_(self._denominator)

    def _products(self) -> Iterator[ChunkProduct]:
        if self._kept is not None:
            yield from self._kept
            return
        keep: list[ChunkProduct] = []
        for batch in self._data.chunks(self.plan.chunk_points):
            objective = chunk_objective(self._snapshot, self._terms, batch)
            product: ChunkProduct
            if self.plan.product == "linearized":
                product = LinearizedProduct(objective, self._snapshot.parameters)
            else:
                product = GraphProduct(objective, self._snapshot.parameters)
            if self.plan.product != "recomputed":
                keep.append(product)
            yield product
        if self.plan.product != "recomputed":
            self._kept = keep


def add_products(total: Tensor, product: ChunkProduct, V: Tensor, snapshot: ModelSnapshot, rows_at_once: int) -> None:
    """Adds a chunk's products with the rows of ``V`` ``[k, p]`` to ``total`` ``[k, p]``, in place."""
    if rows_at_once > 1:
        for rows, block in zip(torch.split(total, rows_at_once), torch.split(V, rows_at_once), strict=True):
            rows += snapshot.join(product.many(snapshot.split(block)), batch_dims=1)
        return
    for row, v in zip(total, V, strict=True):
        row += snapshot.join(product.one(snapshot.split(v)))
