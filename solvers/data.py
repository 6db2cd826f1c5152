"""Training data that can be gone through again and again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch

from ihvp.errors import DataMismatch, EmptyData, InvalidSampleWeights
from solvers.batch import Batch, alike, joined, moved, pieces, read_batch
from solvers.out_of_memory import is_out_of_memory

__all__ = ["TrainingData"]


class TrainingData:
    """Batches ``(x, y)`` or ``(x, y, w)`` from a list, a ``DataLoader`` or any other iterable.

    Within ``memory_budget`` the batches are kept, so that a loader that shuffles or augments yields one fixed
    data set. Past it they are read from the source in every pass; each pass must give as many points.

    Args:
        source: Iterable of batches with the points along the first dimension of every tensor. x may be a dict of
            tensors, which the model is then given by name; w holds sample weights ``[m]``, none negative.
        memory_budget: Bytes of batches to keep. What a list holds already is not counted.

    Attributes:
        num_points: The number n of points.
        total_weight: Σ of the sample weights; n where there are none.
        sizes: Points of each batch.
        in_memory: Whether the batches are kept.
        nbytes: Bytes of the batches that are kept and were not held already.

    Raises:
        EmptyData: There is no point.
        RowsMismatch: Inputs, targets and weights of a batch differ in number.
        InvalidSampleWeights: A weight is negative or not finite, or all are zero.
        DataMismatch: The source yields something else than batches of tensors, has weights in some of them only,
            or can be gone through only once and holds more than the budget.
    """

    def __init__(self, source: Any, memory_budget: int) -> None:
        if not isinstance(source, Iterable) and not hasattr(source, "__getitem__"):
            raise DataMismatch(
                "Training data must be an iterable of (x, y) or (x, y, w) batches.", given=type(source).__name__
            )
        self._source = source
        self._kept: list[Batch] | None = []
        self.sizes: list[int] = []
        held_already = isinstance(source, (list, tuple))
        size = 0
        self.total_weight = 0.0
        weighted: bool | None = None
        for batch in _batches(source):
            self.sizes.append(batch.points)
            self.total_weight += _weight_of(batch)
            if weighted is not None and weighted != (batch.w is not None):
                raise DataMismatch(
                    "Some batches have sample weights and others have none.",
                    given=f"batch {len(self.sizes) - 1} is the first that differs",
                    allowed="(x, y, w) for all batches, or (x, y) for all",
                )
            weighted = batch.w is not None
            size += 0 if held_already else sum(part.nbytes for part in batch.tensors())
            # What the first batch shows to be too much is not kept up to the budget first.
            foreseen = size * len(source) if len(self.sizes) == 1 and isinstance(source, Sized) else size
            if self._kept is not None and foreseen > memory_budget:
                self._drop(size, memory_budget)
            if self._kept is not None:
                self._kept.append(batch)
        self.num_points = sum(self.sizes)
        if not self.num_points:
            raise EmptyData("There are no data points.", hint="Each batch is a pair (x, y) with ≥ 1 rows.")
        if not self.total_weight > 0:
            raise InvalidSampleWeights("All sample weights are zero, so no point counts.", allowed="a sum above 0")
        self.in_memory = self._kept is not None
        self.nbytes = size if self.in_memory else 0

    def batches(self) -> Iterator[Batch]:
        """The batches as the source gave them, without empty ones."""
        if self._kept is not None:
            yield from self._kept
            return
        seen = 0
        for batch in _batches(self._source):
            seen += batch.points
            yield batch
        if seen != self.num_points:
            raise DataMismatch(
                "The training data changed between two passes.",
                given=f"{seen} points",
                allowed=f"{self.num_points} points, as in the first pass",
            )

    def batch(self, index: int) -> Batch:
        """One of the batches as the source gave them.

        A source that is not kept and has no ``__getitem__`` is gone through up to there.
        """
        if self._kept is not None:
            return self._kept[index]
        if hasattr(self._source, "__getitem__") and len(self._source) == len(self.sizes):
            found = next(_batches([self._source[index]]), None)
        else:
            found = next(itertools.islice(_batches(self._source), index, None), None)
        if found is None or found.points != self.sizes[index]:
            raise DataMismatch(
                "The training data changed between two passes.",
                given="no points" if found is None else f"{found.points} points in batch {index}",
                allowed=f"{self.sizes[index]} points, as in the first pass",
            )
        return found

    def chunks(self, max_points: int) -> Iterator[Batch]:
        """The same points in pieces of at most ``max_points``: small batches joined, large ones split."""
        pending: list[Batch] = []
        waiting = 0
        for batch in self.batches():
            for piece in pieces(batch, max_points):
                fits = waiting + piece.points <= max_points
                if pending and not (fits and alike(pending[0], piece)):
                    yield joined(pending)
                    pending, waiting = [], 0
                pending.append(piece)
                waiting += piece.points
        if pending:
            yield joined(pending)

    def streamed(self, max_points: int, device: torch.device) -> Iterator[Batch]:
        """:meth:`chunks` for work on a device; ``moved`` is then all that is left to do.

        To a GPU the next chunk is on its way, from pinned memory and in a stream of its own, while this one is
        worked on. Where there is no room for the next one there, it is left in main memory.
        """
        if device.type != "cuda":
            yield from self.chunks(max_points)
            return
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        ahead: _Ahead | None = None
        for batch in self.chunks(max_points):
            following = _Ahead(batch, device, stream)
            if ahead is not None:
                yield ahead.here()
            ahead = following
        if ahead is not None:
            yield ahead.here()

    def _drop(self, size: int, memory_budget: int) -> None:
        if iter(self._source) is self._source:
            raise DataMismatch(
                "The training data can be gone through only once and does not fit the memory budget.",
                given=f"an iterator over more than {size} bytes",
                allowed=f"{memory_budget} bytes, or a source that can be iterated again",
                hint="Pass a DataLoader or a list of batches.",
            )
        self._kept = None


class _Ahead:
    """A chunk on its way to a GPU, in a stream that nothing else waits for.

    Args:
        batch: The chunk.
        device: The GPU.
        stream: Where it is copied.
    """

    def __init__(self, batch: Batch, device: torch.device, stream: torch.cuda.Stream) -> None:
        self._batch, self._device = batch, device
        self._copied: torch.cuda.Event | None = None
        if any(part.is_cuda for part in batch.tensors()):
            return
        try:
            with torch.cuda.stream(stream):
                self._batch = moved(batch, device)
                self._copied = stream.record_event()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._batch = batch

    def here(self) -> Batch:
        """The chunk, for use in the current stream: that waits for the copy, the caller does not."""
        if self._copied is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(self._copied)
            for part in self._batch.tensors():
                # Its memory belongs to the other stream, which must not reuse it before this one is done with it.
                part.record_stream(stream)
        return self._batch


def _batches(source: Iterable[Any]) -> Iterator[Batch]:
    for item in source:
        batch = read_batch(item)
        if batch.points:
            yield batch


def _weight_of(batch: Batch) -> float:
    """Σ of a batch's weights.

    Raises:
        InvalidSampleWeights: One is negative or not finite.
    """
    if batch.w is None:
        return float(batch.points)
    w = batch.w.double()
    bad = w[~(w.isfinite() & (w >= 0))]
    if bad.numel():
        raise InvalidSampleWeights(
            "A sample weight is negative or not finite.", given=f"{float(bad[0]):g}", allowed="finite numbers ≥ 0"
        )
    return float(w.sum())
