"""Training data that can be gone through again and again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor

from ihvp.errors import DataMismatch, EmptyData, RowsMismatch
from solvers.out_of_memory import is_out_of_memory

__all__ = ["Batch", "TrainingData", "moved", "pieces"]

Batch = tuple[Tensor, Tensor]


class TrainingData:
    """Batches ``(x, y)`` from a list, a ``DataLoader`` or any other iterable.

    Within ``memory_budget`` the batches are kept, so that a loader that shuffles or augments yields one fixed
    data set. Past it they are read from the source in every pass; each pass must give as many points.

    Args:
        source: Iterable of pairs of tensors with the points along the first dimension.
        memory_budget: Bytes of batches to keep. What a list holds already is not counted.

    Attributes:
        num_points: The number n of points.
        sizes: Points of each batch.
        in_memory: Whether the batches are kept.
        nbytes: Bytes of the batches that are kept and were not held already.

    Raises:
        EmptyData: There is no point.
        RowsMismatch: Inputs and targets of a batch differ in number.
        DataMismatch: The source yields something else than pairs of batched tensors, or can be gone through
            only once and holds more than the budget.
    """

    def __init__(self, source: Any, memory_budget: int) -> None:
        if not isinstance(source, Iterable) and not hasattr(source, "__getitem__"):
            raise DataMismatch("Training data must be an iterable of (x, y) batches.", given=type(source).__name__)
        self._source = source
        self._kept: list[Batch] | None = []
        self.sizes: list[int] = []
        held_already = isinstance(source, (list, tuple))
        size = 0
        for x, y in _pairs(source):
            self.sizes.append(x.shape[0])
            size += 0 if held_already else x.nbytes + y.nbytes
            # What the first batch shows to be too much is not kept up to the budget first.
            foreseen = size * len(source) if len(self.sizes) == 1 and isinstance(source, Sized) else size
            if self._kept is not None and foreseen > memory_budget:
                self._drop(size, memory_budget)
            if self._kept is not None:
                self._kept.append((x, y))
        self.num_points = sum(self.sizes)
        if not self.num_points:
            raise EmptyData("There are no data points.", hint="Each batch is a pair (x, y) with ≥ 1 rows.")
        self.in_memory = self._kept is not None
        self.nbytes = size if self.in_memory else 0

    def batches(self) -> Iterator[Batch]:
        """The batches as the source gave them, without empty ones."""
        if self._kept is not None:
            yield from self._kept
            return
        seen = 0
        for x, y in _pairs(self._source):
            seen += x.shape[0]
            yield x, y
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
            found = next(_pairs([self._source[index]]), None)
        else:
            found = next(itertools.islice(_pairs(self._source), index, None), None)
        if found is None or found[0].shape[0] != self.sizes[index]:
            raise DataMismatch(
                "The training data changed between two passes.",
                given="no points" if found is None else f"{found[0].shape[0]} points in batch {index}",
                allowed=f"{self.sizes[index]} points, as in the first pass",
            )
        return found

    def chunks(self, max_points: int) -> Iterator[Batch]:
        """The same points in pieces of at most ``max_points``: small batches joined, large ones split."""
        pending: list[Batch] = []
        waiting = 0
        for x, y in self.batches():
            for piece in pieces((x, y), max_points):
                fits = waiting + piece[0].shape[0] <= max_points
                if pending and not (fits and _alike(pending[0], piece)):
                    yield _joined(pending)
                    pending, waiting = [], 0
                pending.append(piece)
                waiting += piece[0].shape[0]
        if pending:
            yield _joined(pending)

    def streamed(self, max_points: int, device: torch.device) -> Iterator[Batch]:
        """:meth:`chunks` for work on a device; :func:`moved` is then all that is left to do.

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
        if any(part.is_cuda for part in batch):
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
            for part in self._batch:
                # Its memory belongs to the other stream, which must not reuse it before this one is done with it.
                part.record_stream(stream)
        return self._batch


def pieces(batch: Batch, max_points: int) -> Iterator[Batch]:
    """A batch in pieces of at most ``max_points``; views of it."""
    x, y = batch
    for start in range(0, x.shape[0], max_points):
        yield x[start : start + max_points], y[start : start + max_points]


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device; the way to a GPU goes through pinned memory, and is not waited for."""
    if device.type != "cuda":
        return batch[0].to(device), batch[1].to(device)
    x, y = (part if part.is_cuda else part.pin_memory() for part in batch)
    return x.to(device, non_blocking=True), y.to(device, non_blocking=True)


def _pairs(source: Iterable[Any]) -> Iterator[Batch]:
    for item in source:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataMismatch("Each batch must be a pair (x, y).", given=type(item).__name__)
        x, y = item
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            raise DataMismatch(
                "Each batch must be a pair of tensors.", given=f"({type(x).__name__}, {type(y).__name__})"
            )
        if not x.ndim or not y.ndim:
            raise DataMismatch(
                "Batches have the points along their first dimension; this looks like a single point.",
                given=f"x {list(x.shape)}, y {list(y.shape)}",
                hint="Wrap the dataset in a DataLoader.",
            )
        if x.shape[0] != y.shape[0]:
            raise RowsMismatch(
                "Inputs and targets of a batch differ in their number of rows.",
                given=f"x {list(x.shape)}, y {list(y.shape)}",
            )
        if x.shape[0]:
            yield x, y


def _alike(a: Batch, b: Batch) -> bool:
    """Whether two batches can be joined: sequences of different lengths cannot."""
    return all(s.shape[1:] == t.shape[1:] and s.dtype == t.dtype for s, t in zip(a, b, strict=True))


def _joined(pieces: list[Batch]) -> Batch:
    if len(pieces) == 1:
        return pieces[0]
    return torch.cat([x for x, _ in pieces]), torch.cat([y for _, y in pieces])
