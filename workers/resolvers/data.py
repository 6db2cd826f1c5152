"""Training points from blobs: mapped into memory, sliced into batches as the solver asks for them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ihvp.errors import DataMismatch, EmptyData, LossMismatch, RowsMismatch, TargetsOutOfRange
from ihvp.models.spec import LossSpec
from workers.resolvers.files import FileAccess
from workers.resolvers.mapping import map_tensor

__all__ = ["PointBatches", "map_points"]

_ROWS_AT_ONCE = 65_536
"""Rows looked at together when values are checked, so that a check never holds the whole data set."""


class PointBatches:
    """Batches ``(x, y)`` of points, again and again; holds views of mapped files, not copies.

    Floating-point values come in the model's dtype, integers (token ids, classes) as int64.

    Args:
        inputs: ``[n, ...]``.
        targets: ``[n, ...]``.
        batch_size: Most rows of a batch.
        dtype: The model's dtype.
        classes: Whether targets are classes, which stay integers.

    Raises:
        EmptyData: There is no row.
        RowsMismatch: Inputs and targets differ in their number of rows.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, *, batch_size: int, dtype: torch.dtype, classes: bool) -> None:
        if inputs.ndim == 0 or targets.ndim == 0:
            raise DataMismatch(
                "Points stand in rows; a single number is no data set.",
                given=f"inputs {list(inputs.shape)}, targets {list(targets.shape)}",
            )
        if inputs.shape[0] != targets.shape[0]:
            raise RowsMismatch(
                "Inputs and targets differ in their number of rows.",
                given=f"inputs {list(inputs.shape)}, targets {list(targets.shape)}",
                allowed="one target row for each input row",
            )
        if inputs.shape[0] == 0:
            raise EmptyData("There are no data points.", given=f"inputs {list(inputs.shape)}")
        self._inputs = inputs
        self._targets = targets
        self._batch_size = batch_size
        self._dtype = dtype
        self._classes = classes

    @property
    def num_points(self) -> int:
        """The number n of points."""
        return self._inputs.shape[0]

    def __len__(self) -> int:
        return -(-self.num_points // self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, self.num_points, self._batch_size):
            yield self.rows(start, start + self._batch_size)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One of the batches: where they are drawn at random, the others are not read."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.rows(index * self._batch_size, (index + 1) * self._batch_size)

    def rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The points of these rows."""
        x, y = self._inputs[start:stop], self._targets[start:stop]
        x = x.to(self._dtype if x.is_floating_point() else torch.int64)
        whole = self._classes and not y.is_floating_point()
        return x, y.to(torch.int64 if whole else self._dtype)

    def check_inputs(self, shape: tuple[int, ...] | None, *, tokens: int | None) -> None:
        """Checks the inputs against what a built-in architecture takes.

        Args:
            shape: Shape of one input; None where it may vary.
            tokens: Size of the vocabulary where inputs are token ids.

        Raises:
            DataMismatch: Shape, dtype or a token id does not fit.
        """
        found = tuple(self._inputs.shape[1:])
        if shape is not None and found != shape:
            raise DataMismatch(
                "The inputs do not have the shape that the model takes.",
                given=f"inputs {list(self._inputs.shape)}",
                allowed=f"[n, {', '.join(map(str, shape))}]",
            )
        if tokens is None:
            if not self._inputs.is_floating_point():
                raise DataMismatch(
                    "This architecture takes floating-point inputs.",
                    given=str(self._inputs.dtype),
                    allowed="float16, bfloat16, float32 or float64",
                    hint="Convert and scale them as they were for training.",
                )
            return
        if self._inputs.is_floating_point() or self._inputs.ndim != 2:
            raise DataMismatch(
                "A language model takes token ids.",
                given=f"inputs {list(self._inputs.shape)} {self._inputs.dtype}",
                allowed="integers [n, t]",
            )
        self._check_range(self._inputs, 0, tokens - 1, DataMismatch, "An input is not a token of the vocabulary.")

    def check_length(self, context: int) -> None:
        """Checks that sequences are no longer than a model's context.

        Raises:
            DataMismatch: They are.
        """
        if self._inputs.shape[1] > context:
            raise DataMismatch(
                "The sequences are longer than the model's context.",
                given=f"{self._inputs.shape[1]} tokens",
                allowed=f"at most {context}",
            )

    def check_targets(self, loss: LossSpec, num_classes: int | None) -> None:
        """Checks every target's value.

        Args:
            loss: Says which values are meant.
            num_classes: How many classes the model predicts, for ``cross_entropy``.

        Raises:
            LossMismatch: The dtype cannot be a target of this loss.
            TargetsOutOfRange: A class that the model does not predict, or a probability outside [0, 1].
        """
        if loss.type == "bce_with_logits":
            self._check_range(
                self._targets, 0, 1, TargetsOutOfRange, "A target of bce_with_logits lies outside [0, 1]."
            )
        if loss.type != "cross_entropy" or num_classes is None:
            return
        if self._targets.is_floating_point():
            raise LossMismatch(
                "cross_entropy needs class indices.",
                given=f"targets {list(self._targets.shape)} {self._targets.dtype}",
                allowed="integers",
            )
        message = "A target is not a class that the model can predict."
        self._check_range(self._targets, 0, num_classes - 1, TargetsOutOfRange, message, ignored=loss.ignore_index)

    def _check_range(
        self,
        values: Tensor,
        least: int,
        most: int,
        error: type[DataMismatch] | type[TargetsOutOfRange],
        message: str,
        ignored: int | None = None,
    ) -> None:
        for start in range(0, values.shape[0], _ROWS_AT_ONCE):
            part = values[start : start + _ROWS_AT_ONCE]
            part = part if part.is_floating_point() else part.to(torch.int64)
            # Written so that NaN is outside.
            wrong = ~((part >= least) & (part <= most))
            if ignored is not None:
                wrong &= part != ignored
            if wrong.any():
                at = [int(i) for i in wrong.nonzero()[0]]
                at_text = f"row {start + at[0]}" + (f", place {at[1:]}" if at[1:] else "")
                raise error(message, given=f"{part[tuple(at)].item()} in {at_text}", allowed=f"{least} to {most}")


def map_points(
    files: FileAccess, inputs: str, targets: str, *, batch_size: int, dtype: torch.dtype, loss: LossSpec
) -> PointBatches:
    """Points from references.

    Raises:
        BlobNotFound: A blob is gone.
        InvalidTensor: A file holds no readable tensor of that name.
        InvalidInput: The two do not make a data set; see ``PointBatches``.
    """
    return PointBatches(
        map_tensor(files, inputs, "inputs"),
        map_tensor(files, targets, "targets"),
        batch_size=batch_size,
        dtype=dtype,
        classes=loss.type == "cross_entropy",
    )
