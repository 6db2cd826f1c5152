"""Points against the model that they are for: shapes, dtypes, and every value that could be out of range."""

from __future__ import annotations

from typing import Final

import torch

from ihvp.errors import DataMismatch, LossMismatch, TargetsOutOfRange
from ihvp.models.spec import LossSpec
from workers.resolvers.columns import Column
from workers.resolvers.data import PointBatches

__all__ = ["check_inputs", "check_length", "check_range", "check_targets"]

_ROWS_AT_ONCE: Final = 65_536
"""Rows looked at together when values are checked, so that a check never holds the whole data set."""


def check_inputs(batches: PointBatches, shape: tuple[int, ...] | None, *, tokens: int | None) -> None:
    """Checks the inputs against what a built-in architecture takes.

    Args:
        batches: The points.
        shape: Shape of one input; None where it may vary.
        tokens: Size of the vocabulary where inputs are token ids.

    Raises:
        DataMismatch: Number of inputs, shape, dtype or a token id does not fit.
    """
    inputs = _only_input(batches)
    found = tuple(inputs.shape[1:])
    if shape is not None and found != shape:
        raise DataMismatch(
            "The inputs do not have the shape that the model takes.",
            given=f"inputs {list(inputs.shape)}",
            allowed=f"[n, {', '.join(map(str, shape))}]",
        )
    if tokens is None:
        if not inputs.dtype.is_floating_point:
            raise DataMismatch(
                "This architecture takes floating-point inputs.",
                given=str(inputs.dtype),
                allowed="float16, bfloat16, float32 or float64",
                hint="Convert and scale them as they were for training.",
            )
        return
    if inputs.dtype.is_floating_point or len(inputs.shape) != 2:
        raise DataMismatch(
            "A language model takes token ids.",
            given=f"inputs {list(inputs.shape)} {inputs.dtype}",
            allowed="integers [n, t]",
        )
    check_range(batches, inputs, 0, tokens - 1, DataMismatch, "An input is not a token of the vocabulary.")


def check_length(batches: PointBatches, context: int) -> None:
    """Checks that sequences are no longer than a model's context.

    Raises:
        DataMismatch: They are.
    """
    length = _only_input(batches).shape[1]
    if length > context:
        raise DataMismatch(
            "The sequences are longer than the model's context.",
            given=f"{length} tokens",
            allowed=f"at most {context}",
        )


def check_targets(batches: PointBatches, loss: LossSpec, num_classes: int | None) -> None:
    """Checks the value of every target that is used.

    Args:
        batches: The points.
        loss: Says which values are meant.
        num_classes: How many classes the model predicts, for ``cross_entropy``.

    Raises:
        LossMismatch: The dtype cannot be a target of this loss.
        TargetsOutOfRange: A class that the model does not predict, or a probability outside [0, 1].
    """
    targets = batches.rows.targets
    if loss.type == "bce_with_logits":
        check_range(batches, targets, 0, 1, TargetsOutOfRange, "A target of bce_with_logits lies outside [0, 1].")
    if loss.type != "cross_entropy" or num_classes is None:
        return
    if targets.dtype.is_floating_point:
        raise LossMismatch(
            "cross_entropy needs class indices.",
            given=f"targets {list(targets.shape)} {targets.dtype}",
            allowed="integers",
        )
    message = "A target is not a class that the model can predict."
    check_range(batches, targets, 0, num_classes - 1, TargetsOutOfRange, message, ignored=loss.ignore_index)


def _only_input(batches: PointBatches) -> Column:
    if batches.rows.named:
        raise DataMismatch(
            "This architecture takes one tensor of inputs, not several by name.",
            given=", ".join(batches.rows.inputs),
            allowed="data.inputs: one reference",
        )
    return next(iter(batches.rows.inputs.values()))


def check_range(
    batches: PointBatches,
    values: Column,
    least: int,
    most: int,
    error: type[DataMismatch] | type[TargetsOutOfRange],
    message: str,
    ignored: int | None = None,
) -> None:
    """Checks every number that is used against a range.

    Args:
        batches: The points.
        values: One of their columns.
        least: The smallest number that is allowed.
        most: The largest.
        error: What is raised.
        message: What it says first.
        ignored: A number outside that does not count.
    """
    index = batches.rows.index
    for start in range(0, batches.num_points, _ROWS_AT_ONCE):
        which = slice(start, start + _ROWS_AT_ONCE)
        part = values[which if index is None else index[which]]
        part = part if part.is_floating_point() else part.to(torch.int64)
        # Written so that NaN is outside.
        wrong = ~((part >= least) & (part <= most))
        if ignored is not None:
            wrong &= part != ignored
        if wrong.any():
            at = [int(i) for i in wrong.nonzero()[0]]
            row = start + at[0] if index is None else int(index[start + at[0]])
            at_text = f"row {row}" + (f", place {at[1:]}" if at[1:] else "")
            raise error(message, given=f"{part[tuple(at)].item()} in {at_text}", allowed=f"{least} to {most}")
