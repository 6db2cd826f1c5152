"""Data points against a model and its loss: what headers and targets show, without running the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.pretrained_points import check_model_inputs, check_model_targets
from app.row_index import check_index
from app.stored_tensors import FLOAT_NAMES, find_column
from ihvp.errors import (
    DataMismatch,
    EmptyData,
    InvalidSampleWeights,
    LossMismatch,
    RowsMismatch,
    TargetsOutOfRange,
)
from ihvp.models.architectures import ArchitectureConfig, TransformerLmConfig
from ihvp.models.huggingface import HuggingFaceModel, loss_of, main_input
from ihvp.models.points import DataSpec

if TYPE_CHECKING:
    from app.referenced_files import ReferencedFiles
    from app.stored_tensors import StoredTensor
    from ihvp.models.points import PointsSpec
    from ihvp.models.spec import LossSpec

__all__ = ["check_points"]


@dataclass(frozen=True)
class _Points:
    """Columns, and what they are for."""

    inputs: dict[str, StoredTensor]
    targets: StoredTensor
    weights: StoredTensor | None
    index: StoredTensor | list[int] | None
    named: bool
    loss: LossSpec | None
    architecture: ArchitectureConfig | None

    @property
    def only_input(self) -> StoredTensor:
        """The inputs of a built-in architecture."""
        if self.named:
            raise DataMismatch(
                "This architecture takes one tensor of inputs, not several by name.",
                given=", ".join(self.inputs),
                allowed="one reference",
            )
        return next(iter(self.inputs.values()))

    @property
    def scanned(self) -> bool:
        """Whether values are looked at here: rows that an index leaves out may hold anything."""
        return self.index is None


def check_points(
    spec: PointsSpec,
    files: ReferencedFiles,
    loss: LossSpec | None,
    architecture: ArchitectureConfig | HuggingFaceModel | None,
    *,
    place: str,
) -> int:
    """Checks a set of points and returns their number.

    Args:
        spec: What was sent.
        files: Where they are.
        loss: What is taken of them; None where the model says it itself.
        architecture: None for a plug-in and a folder, of which the worker knows more.
        place: The field that it stands in, for messages.

    Raises:
        UnknownBlob: A file was not uploaded.
        InvalidTensor: A file cannot be read, or holds no such column.
        RowsMismatch: Columns differ in their number of rows.
        EmptyData: There is no row.
        InvalidIndex: The index names a row that is not there, or holds no whole numbers.
        InvalidSampleWeights: Weights are no numbers ``[n]``.
        DataMismatch: The inputs do not have the shape or dtype that the architecture takes.
        LossMismatch: The loss cannot be taken of such targets.
        TargetsOutOfRange: A target is not a class of the model.
    """
    pretrained = architecture if isinstance(architecture, HuggingFaceModel) else None
    built_in = None if isinstance(architecture, HuggingFaceModel) else architecture
    points = _found(spec, files, loss, built_in, place)
    rows = _rows(points)
    if pretrained is not None:
        _check_pretrained(points, pretrained)
    elif isinstance(built_in, TransformerLmConfig):
        _check_tokens(points, built_in)
    elif built_in is not None:
        _check_features(points, built_in)
    if pretrained is None and loss is not None:
        if loss.type == "cross_entropy":
            _check_classes(points, loss)
        elif built_in is not None and not loss.is_plugin:
            _check_values(points, built_in, loss)
    return rows if points.index is None else check_index(points.index, rows)


def _check_pretrained(points: _Points, model: HuggingFaceModel) -> None:
    check_model_inputs(points.inputs, model, named=points.named, scanned=points.scanned)
    loss = loss_of(model, points.loss, whole_targets=points.targets.is_integer)
    if loss.type == "cross_entropy":
        _require_classes(points.targets)
    main = points.inputs.get(main_input(model.task)) or points.only_input
    if not loss.is_plugin:
        check_model_targets(points.targets, main, loss, model, scanned=points.scanned)


def _found(
    spec: PointsSpec,
    files: ReferencedFiles,
    loss: LossSpec | None,
    architecture: ArchitectureConfig | None,
    place: str,
) -> _Points:
    named = isinstance(spec.inputs, dict)

    def column(reference: str, name: str, where: str) -> StoredTensor:
        return find_column(files, reference, place=f"{place}.{where}", name=name)

    inputs = {
        name: column(reference, name, f"inputs.{name}" if named else "inputs")
        for name, reference in spec.named_inputs().items()
    }
    weights = spec.weights if isinstance(spec, DataSpec) else None
    return _Points(
        inputs,
        column(spec.targets, "targets", "targets"),
        None if weights is None else column(weights, "weights", "weights"),
        column(spec.index, "index", "index") if isinstance(spec.index, str) else spec.index,
        named,
        loss,
        architecture,
    )


def _rows(points: _Points) -> int:
    """The rows that the columns have in common."""
    weights = points.weights
    columns = [*points.inputs.values(), points.targets, *([] if weights is None else [weights])]
    given = ", ".join(f"{column.label} {list(column.shape)}" for column in columns)
    if not all(column.shape for column in columns):
        raise DataMismatch("Points stand in rows; a single number is no data set.", given=given)
    if len({column.shape[0] for column in columns}) > 1:
        raise RowsMismatch(
            "Inputs, targets and weights differ in their number of rows.",
            given=given,
            allowed="one target row, and one weight if any, for each input row",
        )
    rows = columns[0].shape[0]
    if rows == 0:
        raise EmptyData("There are no data points.", given=given, allowed="at least one row")
    if weights is not None and (len(weights.shape) != 1 or not (weights.is_floating or weights.is_integer)):
        raise InvalidSampleWeights(
            "Sample weights are one number a row.",
            given=f"{weights.label} {list(weights.shape)} {weights.dtype}",
            allowed="[n], floating-point or whole numbers",
        )
    return rows


def _check_features(points: _Points, architecture: ArchitectureConfig) -> None:
    inputs, wanted = points.only_input, architecture.input_shape()
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
    inputs = points.only_input
    fits = len(inputs.shape) == 2 and 1 <= inputs.shape[1] <= architecture.context
    if not inputs.is_integer or not fits:
        raise DataMismatch(
            "A language model takes token ids.",
            given=f"{inputs.label} {list(inputs.shape)} {inputs.dtype}",
            allowed=f"integers [n, t] with t from 1 to {architecture.context}",
        )
    if points.scanned and inputs.is_small:
        stray = inputs.first_outside(0, architecture.vocabulary - 1)
        if stray is not None:
            raise DataMismatch(
                "An input is not a token of the vocabulary.",
                given=f"{stray.value} at {list(stray.at)} of {inputs.label}",
                allowed=f"0 to {architecture.vocabulary - 1}",
            )


def _require_classes(targets: StoredTensor) -> None:
    if not targets.is_integer:
        raise LossMismatch(
            "cross_entropy needs class indices.",
            given=f"{targets.label} {list(targets.shape)} {targets.dtype}",
            allowed="integers",
            hint="Save the targets as int64.",
        )


def _check_classes(points: _Points, loss: LossSpec) -> None:
    targets, architecture = points.targets, points.architecture
    _require_classes(targets)
    if architecture is None:
        return
    if isinstance(architecture, TransformerLmConfig):
        wanted, classes = points.only_input.shape, architecture.vocabulary
    else:
        wanted, classes = targets.shape[:1], (architecture.output_shape() or (0,))[0]
    if targets.shape != wanted:
        raise LossMismatch(
            "cross_entropy takes one class for each prediction.",
            given=f"{targets.label} {list(targets.shape)}",
            allowed=str(list(wanted)),
        )
    if not points.scanned or not targets.is_small:
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


def _check_values(points: _Points, architecture: ArchitectureConfig, loss: LossSpec) -> None:
    targets, outputs = points.targets, architecture.output_shape()
    # torch would broadcast [n] against [n, 1] to [n, n] and return the mean of the wrong thing.
    if outputs is not None and targets.shape[1:] != outputs:
        raise LossMismatch(
            f"{loss.type} takes targets of the shape of the outputs.",
            given=f"{targets.label} {list(targets.shape)}",
            allowed=f"[n, {', '.join(map(str, outputs))}]",
            hint="Reshape the targets; nothing is broadcast.",
        )
    weights = loss.pos_weight
    if outputs is not None and weights is not None and len(weights) not in (1, outputs[-1]):
        raise LossMismatch(
            "pos_weight has one number for each output, or one for all.",
            given=f"{len(weights)} numbers",
            allowed=f"1 or {outputs[-1]}",
        )
