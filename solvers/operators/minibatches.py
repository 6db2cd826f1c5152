"""Curvatures of single minibatches, as stochastic methods draw them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from solvers.data import Batch
from solvers.kernels import twice_differentiable_kernels
from solvers.operators.chunk_curvature import ChunkCurvature
from solvers.operators.curvature import add_products
from solvers.operators.products import ChunkProduct

__all__ = ["MinibatchHessians"]


class MinibatchHessians:
    """Unbiased estimates of H from one batch each: batches / divisor · the curvature of the batch.

    Their mean over the batches is H itself, also when the last batch is ragged.

    Args:
        curvature: What H is.
        batches: The batches; they must stay the same.
        keep: Whether gradient graphs are kept once they were made.

    Attributes:
        shares: Each batch's share of all points.
    """

    def __init__(self, curvature: ChunkCurvature, batches: list[Batch], *, keep: bool) -> None:
        self._curvature = curvature
        self._batches = batches
        sizes = [x.shape[0] for x, _ in batches]
        self._first_points = list(itertools.accumulate(sizes, initial=0))
        self.shares = [size / sum(sizes) for size in sizes]
        self._scale = len(batches) / curvature.divisor
        self._keep = keep
        self._graphs: dict[int, ChunkProduct] = {}
        self._rows_at_once = 16 if curvature.snapshot.device.type == "cuda" else 1

    def __len__(self) -> int:
        return len(self._batches)

    def product(self, index: int, V: Tensor) -> Tensor:
        """The estimate from batch ``index``, applied to each row of ``V`` ``[k, p]``."""
        total = torch.zeros_like(V)
        with twice_differentiable_kernels():
            graph = self._graphs.get(index)
            if graph is None:
                graph = self._curvature.product(self._batches[index], self._first_points[index], "graph")
                if self._keep:
                    self._graphs[index] = graph
            add_products(total, graph, V, self._curvature.snapshot, self._rows_at_once)
        return total.mul_(self._scale)
