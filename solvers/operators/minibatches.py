"""Hessians of single minibatches, as stochastic methods draw them."""

from __future__ import annotations

import torch
from torch import Tensor

from solvers.data import Batch
from solvers.kernels import twice_differentiable_kernels
from solvers.losses import LossTerms
from solvers.operators.hessian import add_products, chunk_objective
from solvers.operators.products import GraphProduct
from solvers.snapshot import ModelSnapshot

__all__ = ["MinibatchHessians"]


class MinibatchHessians:
    """Unbiased estimates of H from one batch each: batches / Σ denominator · ∇² numerator of the batch.

    Their mean over the batches is H itself, also when the last batch is ragged.

    Args:
        snapshot: The model at the parameters where H is taken.
        terms: How the loss normalises.
        batches: The batches; they must stay the same.
        denominator: Σ denominator over all batches.
        keep: Whether gradient graphs are kept once they were made.

    Attributes:
        shares: Each batch's share of all points.
    """

    def __init__(
        self,
        snapshot: ModelSnapshot,
        terms: LossTerms,
        batches: list[Batch],
        denominator: float,
        *,
        keep: bool,
    ) -> None:
        self._snapshot = snapshot
        self._terms = terms
        self._batches = batches
        points = sum(x.shape[0] for x, _ in batches)
        self.shares = [x.shape[0] / points for x, _ in batches]
        self._scale = len(batches) / denominator
        self._keep = keep
        self._graphs: dict[int, GraphProduct] = {}
        self._rows_at_once = 16 if snapshot.device.type == "cuda" else 1

    def __len__(self) -> int:
        return len(self._batches)

    def product(self, index: int, V: Tensor) -> Tensor:
        """The estimate from batch ``index``, applied to each row of ``V`` ``[k, p]``."""
        total = torch.zeros_like(V)
        with twice_differentiable_kernels():
            graph = self._graphs.get(index)
            if graph is None:
                objective = chunk_objective(self._snapshot, self._terms, self._batches[index])
                graph = GraphProduct(objective, self._snapshot.parameters)
                if self._keep:
                    self._graphs[index] = graph
            add_products(total, graph, V, self._snapshot, self._rows_at_once)
        return total.mul_(self._scale)
