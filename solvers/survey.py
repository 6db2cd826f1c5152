"""The first pass over the data: checks every point, and learns what no other pass has to."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.errors import DataMismatch, LossMismatch
from solvers.batch import Batch, Inputs, described, moved
from solvers.data import TrainingData
from solvers.kernels import AttentionWatch, twice_differentiable_kernels
from solvers.losses import LossTerms, loss_terms, weighted
from solvers.operators.products import graph_size
from solvers.out_of_memory import Portions
from solvers.snapshot import ModelSnapshot

__all__ = ["Survey", "survey"]

FIRST_POINTS: Final = 64


@dataclass(frozen=True)
class Survey:
    """What the pass found.

    Attributes:
        terms: How the loss normalises.
        denominator: Σ denominator over all points.
        mean_loss: The mean loss.
        attention: Whether the model calls attention kernels.
        seconds: What the pass took.
        shortage: Where memory ran out, how many points went at a time before and after, in words.
    """

    terms: LossTerms
    denominator: float
    mean_loss: float
    attention: bool
    seconds: float
    shortage: tuple[str, ...] = ()


def survey(snapshot: ModelSnapshot, loss: Any, data: TrainingData, memory_budget: int) -> Survey:
    """Goes through the data once, in pieces whose outputs fit a quarter of the budget.

    Raises:
        DataMismatch: The model cannot be applied to the inputs, or the loss there is not finite.
        LossMismatch: The loss cannot be taken of outputs and targets, or does not define a mean over points.
        TargetsOutOfRange: A target is no class of the model.
        OutOfMemory: Not even one point fits the memory that is free.
    """
    began = time.perf_counter()
    numerator = denominator = 0.0
    pass_ = _Pass(snapshot, loss, memory_budget)
    with torch.no_grad(), twice_differentiable_kernels():
        for index, batch in enumerate(data.batches()):
            for value, weight in pass_.portions.each(batch, pass_.terms_of):
                if not math.isfinite(value):
                    raise DataMismatch(
                        "The loss is not finite at the trained parameters.",
                        given=f"{value} in batch {index}",
                        hint="Look for NaN or infinity in the inputs, the targets and the weights.",
                    )
                numerator += value
                denominator += weight
    if pass_.terms is None or not denominator > 0:
        raise LossMismatch(
            "No target counts: the sum of the weights of all targets is not positive.",
            given=f"Σ weights = {denominator:g}",
        )
    return Survey(
        pass_.terms,
        denominator,
        numerator / denominator,
        pass_.watch.seen,
        time.perf_counter() - began,
        tuple(pass_.portions.shortage),
    )


class _Pass:
    """What the pass knows so far. The first piece shows how large the others may be."""

    def __init__(self, snapshot: ModelSnapshot, loss: Any, memory_budget: int) -> None:
        self.portions = Portions(FIRST_POINTS, snapshot.device)
        self.watch = AttentionWatch()
        self.terms: LossTerms | None = None
        self._snapshot, self._loss, self._memory_budget = snapshot, loss, memory_budget

    def terms_of(self, piece: Batch) -> tuple[float, float]:
        """Checks a piece; returns its numerator and denominator."""
        x, y, w = moved(piece, self._snapshot.device)
        per_point = None
        if self.terms is None:
            with self.watch:
                output, per_point = self._measured(x, piece.points)
        else:
            output = self._snapshot.outputs(self._snapshot.parameters, x)
        if output.ndim == 0 or output.shape[0] != piece.points:
            raise LossMismatch(
                "The model must give one output a point.",
                given=f"inputs {described(x)}, outputs {list(output.shape)}",
            )
        terms = self.terms or loss_terms(self._loss, output, y)
        terms.check(output, y)
        counted = weighted(terms, w)
        found = float(counted.numerator(output, y)), counted.denominator(output, y)
        self.terms = terms
        if per_point is not None:
            self.portions.most = max(1, int(self._memory_budget / 4 / max(per_point, 1.0)))
        return found

    def _measured(self, x: Inputs, points: int) -> tuple[Tensor, float]:
        """Outputs, and bytes for each point of what a graph of them keeps."""
        outputs: list[Tensor] = []

        def forward() -> Tensor:
            with torch.enable_grad():
                leaves = [p.detach().requires_grad_() for p in self._snapshot.parameters]
                outputs.append(self._snapshot.outputs(leaves, x))
            return outputs[0]

        size = graph_size(forward, self._snapshot.parameters)
        return outputs[0].detach(), size.nbytes / points
