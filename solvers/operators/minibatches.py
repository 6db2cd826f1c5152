"""Curvatures of single minibatches, as stochastic methods draw them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from solvers.batch import pieces
from solvers.data import TrainingData
from solvers.kernels import twice_differentiable_kernels
from solvers.operators.chunk_curvature import ChunkCurvature
from solvers.operators.curvature import add_products
from solvers.operators.products import ChunkProduct
from solvers.out_of_memory import Portions, until_it_fits

__all__ = ["MinibatchHessians"]


class MinibatchHessians:
    """Unbiased estimates of H from one batch each: batches / divisor · the curvature of the batch.

    Their mean over the batches is H itself, also when the last batch is ragged.

    Args:
        curvature: What H is.
        data: The training points; their batches are the minibatches.
        chunk_points: Most points differentiated at a time.
        keep: Whether gradient graphs are kept once they were made.

    Attributes:
        shares: Each batch's share of all points.
        shortage: Where memory ran out, how many points went at a time before and after, in words.
    """

    def __init__(self, curvature: ChunkCurvature, data: TrainingData, chunk_points: int, *, keep: bool) -> None:
        self._curvature = curvature
        self._data = data
        self._portions = Portions(chunk_points, curvature.snapshot.device)
        self._first_points = list(itertools.accumulate(data.sizes, initial=0))
        self.shares = [size / data.num_points for size in data.sizes]
        self._scale = len(data.sizes) / curvature.divisor
        self._keep = keep
        self._kept: dict[int, list[ChunkProduct]] = {}
        self._rows_at_once = 16 if curvature.snapshot.device.type == "cuda" else 1

    def __len__(self) -> int:
        return len(self.shares)

    @property
    def points_kept(self) -> int:
        """Points whose gradient graphs are kept now."""
        return sum(self._data.sizes[index] for index in self._kept)

    @property
    def shortage(self) -> list[str]:
        """As above."""
        return self._portions.shortage

    def product(self, index: int, V: Tensor) -> Tensor:
        """The estimate from batch ``index``, applied to each row of ``V`` ``[k, p]``.

        Raises:
            OutOfMemory: Not even one point fits.
        """
        return until_it_fits(
            lambda: self._product(index, V, self._most(index)),
            is_smallest=lambda: self._most(index) == self._rows_at_once == 1 and not self._keep,
            halve=lambda: self._halve(index),
        )

    def _most(self, index: int) -> int:
        return min(self._portions.most, self._data.sizes[index])

    def _halve(self, index: int) -> None:
        self._keep, self._kept = False, {}
        self._rows_at_once = max(1, self._rows_at_once // 2)
        self._portions.halve(self._most(index))

    def _product(self, index: int, V: Tensor, most: int) -> Tensor:
        total = torch.zeros_like(V)
        with twice_differentiable_kernels():
            for product in self._products(index, most):
                add_products(total, product, V, self._curvature.snapshot, self._rows_at_once)
        return total.mul_(self._scale)

    def _products(self, index: int, most: int) -> Iterator[ChunkProduct]:
        if index in self._kept:
            yield from self._kept[index]
            return
        keep: list[ChunkProduct] = []
        first_point = self._first_points[index]
        for piece in pieces(self._data.batch(index), most):
            product = self._curvature.product(piece, first_point, "graph")
            first_point += piece.points
            if self._keep:
                keep.append(product)
            yield product
        if self._keep:
            self._kept[index] = keep
