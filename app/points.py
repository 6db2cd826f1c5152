"""Data points against a model and its loss: what headers and targets show, without running the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.stored_tensors import FLOAT_NAMES
from ihvp.errors import DataMismatch, EmptyData, LossMismatch, RowsMismatch, TargetsOutOfRange
from ihvp.models.architectures import ArchitectureConfig, TransformerLmConfig

if TYPE_CHECKING:
    from app.stored_tensors import StoredTensor
    from ihvp.models.spec import LossSpec

__all__ = ["check_loss", "check_points"]


@dataclass(frozen=True)
class _Points:
    inputs: StoredTensor
    targets: StoredTensor
    loss: LossSpec
    architecture: ArchitectureConfig | None


def check_loss(loss: LossSpec) -> None:
    """Checks the loss' options against its type.

    Raises:
        LossMismatch: It has no such option.
    """
    if loss.type != "cross_entropy" and (loss.label_smoothing or loss.ignore_index is not None):
        raise LossMismatch(
            "Only cross_entropy has label_smoothing and ignore_index.",
            given=loss.type,
            hint="Leave them out, or use cross_entropy.",
        )


def check_points(
    inputs: StoredTensor, targets: StoredTensor, loss: LossSpec, architecture: ArchitectureConfig | None
) -> int:
    """Checks a set of points and returns their number.

    Args:
        inputs: ``[n, ...]``.
        targets: ``[n, ...]``.
        loss: What is taken of them.
        architecture: None for a plug-in, of which the worker knows more.

    Raises:
        RowsMismatch: Inputs and targets differ in their number of rows.
        EmptyData: There is no row.
        DataMismatch: The inputs do not have the shape or dtype that the architecture takes.
        LossMismatch: The loss cannot be taken of such targets.
        TargetsOutOfRange: A target is not a class of the model.
    """
    points = _Points(inputs, targets, loss, architecture)
    rows = _rows(points)
    if isinstance(architecture, TransformerLmConfig):
        _check_tokens(points, architecture)
    elif architecture is not None:
        _check_features(points, architecture)
    if loss.type == "cross_entropy":
        _check_classes(points)
    elif architecture is not None:
        _check_values(points, architecture)
    return rows


def _rows(points: _Points) -> int:
    inputs, targets = points.inputs, points.targets
    given = f"{inputs.label} {list(inputs.shape)}, {targets.label} {list(targets.shape)}"
    if not inputs.shape or not targets.shape:
        raise DataMismatch("Points stand in rows; a single number is no data set.", given=given)
    if inputs.shape[0] != targets.shape[0]:
        raise RowsMismatch(
            "Inputs and targets differ in their number of rows.",
            given=given,
            allowed="one target row for each input row",
        )
    if inputs.shape[0] == 0:
        raise EmptyData("There are no data points.", given=given, allowed="at least one row")
    return inputs.shape[0]


def _check_features(points: _Points, architecture: ArchitectureConfig) -> None:
    inputs, wanted = points.inputs, architecture.input_shape()
    if wanted is not None and inputs.shape[1:] != wanted:
        raise DataMismatch(
            "The inputs do not have the shape that the model takes.",
            given=f"{inputs.label} {list(inputs.shape)}",
            allowed=f"[n, {', '.join(map(str, wanted))}]",
        )
    if not inputs.is_floating:
        raise DataMismatch(
            "This architecture takes floating-point inputs.",
            given=f"{inputs.label} {inputs.dtype}",
            allowed=FLOAT_NAMES,
            hint="Convert and scale them as they were for training.",
        )


def _check_tokens(points: _Points, architecture: TransformerLmConfig) -> None:
    inputs = points.inputs
    fits = len(inputs.shape) == 2 and 1 <= inputs.shape[1] <= architecture.context
    if not inputs.is_integer or not fits:
        raise DataMismatch(
            "A language model takes token ids.",
            given=f"{inputs.label} {list(inputs.shape)} {inputs.dtype}",
            allowed=f"integers [n, t] with t from 1 to {architecture.context}",
        )
    if inputs.is_small:
        stray = inputs.first_outside(0, architecture.vocabulary - 1)
        if stray is not None:
            raise DataMismatch(
                "An input is not a token of the vocabulary.",
                given=f"{stray.value} at {list(stray.at)} of {inputs.label}",
                allowed=f"0 to {architecture.vocabulary - 1}",
            )


def _check_classes(points: _Points) -> None:
    targets, loss, architecture = points.targets, points.loss, points.architecture
    if not targets.is_integer:
        raise LossMismatch(
            "cross_entropy needs class indices.",
            given=f"{targets.label} {list(targets.shape)} {targets.dtype}",
            allowed="integers",
            hint="Save the targets as int64.",
        )
    if architecture is None:
        return
    if isinstance(architecture, TransformerLmConfig):
        wanted, classes = points.inputs.shape, architecture.vocabulary
    else:
        wanted, classes = targets.shape[:1], (architecture.output_shape() or (0,))[0]
    if targets.shape != wanted:
        raise LossMismatch(
            "cross_entropy takes one class for each prediction.",
            given=f"{targets.label} {list(targets.shape)}",
            allowed=str(list(wanted)),
        )
    if not targets.is_small:
        return
    stray = targets.first_outside(0, classes - 1, ignoring=loss.ignore_index)
    if stray is not None:
        ignored = "" if loss.ignore_index is None else f", or {loss.ignore_index} (ignore_index)"
        raise TargetsOutOfRange(
            "A target is not a class that the model can predict.",
            given=f"{stray.value} at {list(stray.at)} of {targets.label}",
            allowed=f"0 to {classes - 1}{ignored}",
            hint="Count classes from 0, or give the architecture more outputs.",
        )


def _check_values(points: _Points, architecture: ArchitectureConfig) -> None:
    targets, outputs = points.targets, architecture.output_shape()
    # torch would broadcast [n] against [n, 1] to [n, n] and return the mean of the wrong thing.
    if outputs is not None and targets.shape[1:] != outputs:
        raise LossMismatch(
            f"{points.loss.type} takes targets of the shape of the outputs.",
            given=f"{targets.label} {list(targets.shape)}",
            allowed=f"[n, {', '.join(map(str, outputs))}]",
            hint="Reshape the targets; nothing is broadcast.",
        )
