"""One batch of training points: inputs, targets and, where there are any, sample weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ihvp.errors import DataMismatch, RowsMismatch

__all__ = ["Batch", "Inputs", "alike", "described", "joined", "map_inputs", "moved", "pieces", "read_batch"]

Inputs = Tensor | dict[str, Tensor]
"""What a model takes: one tensor, or several by the names of its ``forward``'s arguments."""


class Batch(NamedTuple):
    """Points along the first dimension of every tensor.

    Attributes:
        x: ``[m, ...]``, or a dict of such tensors.
        y: ``[m, ...]``.
        w: Sample weights ``[m]``, none negative; None where each point counts once.
    """

    x: Inputs
    y: Tensor
    w: Tensor | None = None

    @property
    def points(self) -> int:
        """The number m of points."""
        return self.y.shape[0]

    def tensors(self) -> Iterator[Tensor]:
        """All tensors of it."""
        yield from self.x.values() if isinstance(self.x, dict) else (self.x,)
        yield self.y
        if self.w is not None:
            yield self.w

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with a function applied to each tensor."""
        return Batch(map_inputs(self.x, function), function(self.y), None if self.w is None else function(self.w))

    def rows(self, start: int, stop: int) -> Batch:
        """The points of these rows; views."""
        return self.map(lambda part: part[start:stop])

    def given(self) -> tuple[Any, ...]:
        """``(x, y)``, or ``(x, y, w)`` where there are weights: what training data are made of."""
        return (self.x, self.y) if self.w is None else tuple(self)


def map_inputs(x: Inputs, function: Callable[[Tensor], Tensor]) -> Inputs:
    """Inputs with a function applied to each tensor."""
    return {name: function(part) for name, part in x.items()} if isinstance(x, dict) else function(x)


def described(x: Inputs) -> str:
    """Shapes and dtypes of inputs, for messages."""
    if isinstance(x, dict):
        return ", ".join(f"{name} {list(part.shape)} {part.dtype}" for name, part in x.items())
    return f"{list(x.shape)} {x.dtype}"


def read_batch(item: Any) -> Batch:
    """A batch as training data hold it, checked but for the values of weights.

    Raises:
        RowsMismatch: Its tensors differ in their number of rows.
        DataMismatch: It is none.
    """
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        raise DataMismatch("Each batch must be a pair (x, y), or (x, y, w) with sample weights.", given=_kind(item))
    x, y = item[0], item[1]
    w = item[2] if len(item) == 3 else None
    inputs: Inputs = dict(x) if isinstance(x, Mapping) else x
    named = list(inputs.items()) if isinstance(inputs, dict) else [("x", inputs)]
    named += [("y", y), *([] if w is None else [("w", w)])]
    if len(named) < 2 or not all(isinstance(part, Tensor) for _, part in named):
        raise DataMismatch(
            "Each batch must be made of tensors.",
            given=", ".join(f"{name}: {_kind(part)}" for name, part in named),
            allowed="x a tensor or a non-empty dict of tensors, y a tensor, w a tensor or left out",
        )
    sizes = {part.shape[0] if part.ndim else None for _, part in named}
    shapes = ", ".join(f"{name} {list(part.shape)}" for name, part in named)
    if None in sizes:
        raise DataMismatch(
            "Batches have the points along their first dimension; this looks like a single point.",
            given=shapes,
            hint="Wrap the dataset in a DataLoader.",
        )
    if len(sizes) > 1:
        raise RowsMismatch("Inputs, targets and weights of a batch differ in their number of rows.", given=shapes)
    if w is not None and w.ndim != 1:
        raise DataMismatch("Sample weights are one number a point.", given=shapes, allowed="w [m]")
    return Batch(inputs, y, w)


def pieces(batch: Batch, max_points: int) -> Iterator[Batch]:
    """A batch in pieces of at most ``max_points``; views of it."""
    if batch.points <= max_points:
        yield batch
        return
    for start in range(0, batch.points, max_points):
        yield batch.rows(start, start + max_points)


def joined(parts: list[Batch]) -> Batch:
    """Batches that are :func:`alike` as one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    x: Inputs
    if isinstance(first.x, dict):
        x = {name: torch.cat([part.x[name] for part in parts if isinstance(part.x, dict)]) for name in first.x}
    else:
        x = torch.cat([part.x for part in parts if isinstance(part.x, Tensor)])
    w = None if first.w is None else torch.cat([part.w for part in parts if part.w is not None])
    return Batch(x, torch.cat([part.y for part in parts]), w)


def alike(a: Batch, b: Batch) -> bool:
    """Whether two batches can be joined: sequences of different lengths cannot."""
    names = [list(part.x) if isinstance(part.x, dict) else None for part in (a, b)]
    return (
        names[0] == names[1]
        and (a.w is None) == (b.w is None)
        and all(
            s.shape[1:] == t.shape[1:] and s.dtype == t.dtype for s, t in zip(a.tensors(), b.tensors(), strict=True)
        )
    )


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device; the way to a GPU goes through pinned memory, and is not waited for."""
    if device.type != "cuda":
        return batch.map(lambda part: part.to(device))
    return batch.map(lambda part: (part if part.is_cuda else part.pin_memory()).to(device, non_blocking=True))


def _kind(value: Any) -> str:
    return type(value).__name__
