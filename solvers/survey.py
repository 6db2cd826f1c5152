"""The first pass over the data: checks every point, and learns what no other pass has to."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ihvp.errors import DataMismatch, LossMismatch
from solvers.data import Batch, TrainingData, moved
from solvers.kernels import AttentionWatch, twice_differentiable_kernels
from solvers.losses import LossTerms, loss_terms
from solvers.operators.products import graph_size
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
    """

    terms: LossTerms
    denominator: float
    mean_loss: float
    attention: bool
    seconds: float


def survey(snapshot: ModelSnapshot, loss: Any, data: TrainingData, memory_budget: int) -> Survey:
    """Goes through the data once, in pieces whose outputs fit a quarter of the budget.

    Raises:
        DataMismatch: The model cannot be applied to the inputs, or the loss there is not finite.
        LossMismatch: The loss cannot be taken of outputs and targets, or does not define a mean over points.
        TargetsOutOfRange: A target is no class of the model.
    """
    began = time.perf_counter()
    terms: LossTerms | None = None
    numerator = denominator = 0.0
    watch = AttentionWatch()
    with torch.no_grad(), twice_differentiable_kernels():
        for index, output, target in _outputs(snapshot, data, memory_budget, watch):
            terms = terms or loss_terms(loss, output, target)
            terms.check(output, target)
            value = float(terms.numerator(output, target))
            if not math.isfinite(value):
                raise DataMismatch(
                    "The loss is not finite at the trained parameters.",
                    given=f"{value} in batch {index}",
                    hint="Look for NaN or infinity in the inputs, the targets and the weights.",
                )
            numerator += value
            denominator += terms.denominator(output, target)
    if terms is None or not denominator > 0:
        raise LossMismatch(
            "No target counts: the sum of the weights of all targets is not positive.",
            given=f"Σ weights = {denominator:g}",
        )
    return Survey(terms, denominator, numerator / denominator, watch.seen, time.perf_counter() - began)


def _outputs(
    snapshot: ModelSnapshot, data: TrainingData, memory_budget: int, watch: AttentionWatch
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Number of the batch, outputs and targets of each piece. The first piece shows how large the others may be."""
    most: int | None = None
    for index, batch in enumerate(data.batches()):
        start, points = 0, batch[0].shape[0]
        while start < points:
            stop = start + (FIRST_POINTS if most is None else most)
            piece = moved((batch[0][start:stop], batch[1][start:stop]), snapshot.device)
            if most is None:
                with watch:
                    output, per_point = _measured(snapshot, piece)
                most = max(1, int(memory_budget / 4 / max(per_point, 1.0)))
            else:
                output = snapshot.outputs(snapshot.parameters, piece[0])
            if output.ndim == 0 or output.shape[0] != piece[0].shape[0]:
                raise LossMismatch(
                    "The model must give one output a point.",
                    given=f"inputs {list(piece[0].shape)}, outputs {list(output.shape)}",
                )
            yield index, output, piece[1]
            start = stop


def _measured(snapshot: ModelSnapshot, piece: Batch) -> tuple[Tensor, float]:
    """Outputs, and bytes for each point of what a graph of them keeps."""
    outputs: list[Tensor] = []

    def forward() -> Tensor:
        with torch.enable_grad():
            leaves = [p.detach().requires_grad_() for p in snapshot.parameters]
            outputs.append(snapshot.outputs(leaves, piece[0]))
        return outputs[0]

    size = graph_size(forward, snapshot.parameters)
    return outputs[0].detach(), size.nbytes / piece[0].shape[0]
