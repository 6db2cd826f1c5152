"""Training points from mapped files: gathered into batches as the solver asks for them, never read whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ihvp.errors import DataMismatch, EmptyData, InvalidIndex, InvalidSampleWeights, RowsMismatch
from solvers.batch import Batch, Inputs
from workers.resolvers.columns import Column

__all__ = ["PointBatches", "Rows"]


@dataclass(frozen=True)
class Rows:
    """The columns that points are made of.

    Attributes:
        inputs: ``[n, ...]`` each, by name; one without a name is called ``inputs``.
        targets: ``[n, ...]``.
        weights: ``[n]``, or None where each point counts once.
        index: Row numbers ``[m]``, or None for all.
        named: Whether the model takes its inputs by name.
    """

    inputs: Mapping[str, Column]
    targets: Column
    weights: Column | None = None
    index: Tensor | None = None
    named: bool = False

    def columns(self) -> dict[str, Column]:
        """All of them with what messages call them."""
        weights = {} if self.weights is None else {"weights": self.weights}
        return {**self.inputs, "targets": self.targets, **weights}


class PointBatches:
    """Batches ``(x, y)`` or ``(x, y, w)`` of points, again and again; holds mapped files, not copies.

    Floating-point values come in the model's dtype, integers (token ids, classes) as int64.

    Args:
        rows: The columns.
        batch_size: Most rows of a batch.
        dtype: The model's dtype.
        classes: Whether targets are classes, which stay integers.
        next_tokens: Whether targets ``[n, t]`` are tokens, of which each but the first is predicted.

    Attributes:
        rows: The columns.
        num_points: The number of points.

    Raises:
        EmptyData: There is no row.
        RowsMismatch: The columns differ in their number of rows.
        DataMismatch: A column is a single number.
        InvalidIndex: The index names a row that is not there, or holds no whole numbers.
        InvalidSampleWeights: Weights are no floating-point or whole numbers ``[n]``.
    """

    def __init__(
        self, rows: Rows, *, batch_size: int, dtype: torch.dtype, classes: bool, next_tokens: bool = False
    ) -> None:
        self.rows = rows
        self._batch_size = batch_size
        self._dtype = dtype
        self._classes = classes
        self._next_tokens = next_tokens
        self.num_points = _checked(rows)

    def __len__(self) -> int:
        return -(-self.num_points // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, self.num_points, self._batch_size):
            yield self.points(start, start + self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        """One of the batches: where they are drawn at random, the others are not read."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.points(index * self._batch_size, (index + 1) * self._batch_size)

    def points(self, start: int, stop: int) -> Batch:
        """The points of these places."""
        rows = self.rows
        which: slice | Tensor = slice(start, stop) if rows.index is None else rows.index[start:stop]
        inputs = {name: self._cast(column[which]) for name, column in rows.inputs.items()}
        x: Inputs = inputs if rows.named else next(iter(inputs.values()))
        y = rows.targets[which]
        y = y[:, 1:] if self._next_tokens else y
        whole = self._classes and not y.is_floating_point()
        w = None if rows.weights is None else rows.weights[which].to(self._dtype)
        return Batch(x, y.to(torch.int64 if whole else self._dtype), w)

    def _cast(self, part: Tensor) -> Tensor:
        return part.to(self._dtype if part.is_floating_point() else torch.int64)


def _checked(rows: Rows) -> int:
    """The number of points that they make."""
    columns = rows.columns()
    shapes = ", ".join(f"{name} {list(column.shape)}" for name, column in columns.items())
    if any(not column.shape for column in columns.values()):
        raise DataMismatch("Points stand in rows; a single number is no data set.", given=shapes)
    counts = {column.shape[0] for column in columns.values()}
    if len(counts) > 1:
        raise RowsMismatch(
            "Inputs, targets and weights differ in their number of rows.",
            given=shapes,
            allowed="one target row, and one weight if any, for each input row",
        )
    if rows.weights is not None and (len(rows.weights.shape) != 1 or rows.weights.dtype == torch.bool):
        raise InvalidSampleWeights(
            "Sample weights are one number a row.",
            given=f"weights {list(rows.weights.shape)} {rows.weights.dtype}",
            allowed="[n], floating-point or whole numbers",
        )
    count = counts.pop()
    if rows.index is not None:
        return _indexed(rows.index, count)
    if not count:
        raise EmptyData("There are no data points.", given=shapes)
    return int(count)


def _indexed(index: Tensor, count: int) -> int:
    if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
        raise InvalidIndex(
            "An index is a list of row numbers.",
            given=f"index {list(index.shape)} {index.dtype}",
            allowed="whole numbers [m]",
        )
    if not index.numel():
        raise EmptyData("The index names no row.", given="index [0]", allowed="at least one row number")
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= count:
        stray = high if low >= 0 else low
        raise InvalidIndex(
            "The index names a row that is not there.",
            given=f"row {stray} at place {int((index == stray).nonzero()[0])}",
            allowed=f"0 to {count - 1}",
        )
    return index.numel()
