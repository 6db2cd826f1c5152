"""A model run on many points at once that keeps them apart: what enters each layer, and gradients a point."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ihvp.errors import DataMismatch
from solvers.batch import Batch, Inputs, map_inputs
from solvers.kronecker.layers import Call, Layer, Uses, call_of
from solvers.out_of_memory import is_out_of_memory
from solvers.snapshot import ModelSnapshot

__all__ = ["Gradients", "PointwiseModel", "Trace"]

Function = Callable[..., tuple[Tensor, list[Tensor]]]


@dataclass(frozen=True)
class Gradients:
    """Derivatives of a number for each point.

    Attributes:
        outputs: By what each layer that was used returned, ``[m, r, out]`` for r positions.
        others: By each other parameter that was asked for, ``[m, *shape]``.
    """

    outputs: list[Tensor]
    others: list[Tensor]


@dataclass(frozen=True)
class Trace:
    """One run on m points.

    Attributes:
        output: What the model returns, ``[m, ...]``.
        layers: Which layers were used, by their places among all.
        weights: The points' sample weights ``[m]``; None where each counts once.
    """

    output: Tensor
    layers: list[int]
    weights: Tensor | None
    _inputs: list[Tensor]
    _calls: list[Call]
    _probes: list[Tensor]
    _copies: list[Tensor]

    def inputs(self, at: int) -> Tensor:
        """What entered the layer at this place among ``layers``, patches under the kernel for a convolution.

        Returns:
            ``[m, r, in]`` for r positions; places of rows ``[m, r]`` for a lookup.
        """
        call, value = self._calls[at], self._inputs[at]
        if call.kind == "lookup":
            return value.reshape(value.shape[0], -1)
        if call.kind == "linear":
            return value.reshape(value.shape[0], -1, value.shape[-1])
        return _patches(call, value)

    def gradients(self, direction: Tensor, *, last: bool = False) -> Gradients:
        """Derivatives of ⟨output, direction⟩, point by point.

        Args:
            direction: ``[m, ...]`` as the output.
            last: Whether the run is not needed after this.
        """
        wanted = [*self._probes, *self._copies]
        if not self.output.requires_grad:
            grads: Sequence[Tensor] = [torch.zeros_like(w) for w in wanted]
        else:
            grads = torch.autograd.grad(
                self.output,
                wanted,
                grad_outputs=direction,
                retain_graph=not last,
                allow_unused=True,
                materialize_grads=True,
            )
        probes, copies = grads[: len(self._probes)], grads[len(self._probes) :]
        rows = [_positions(call, grad) for call, grad in zip(self._calls, probes, strict=True)]
        for at, call in enumerate(self._calls):
            if call.ignored_row is not None:
                rows[at] = rows[at] * (self.inputs(at) != call.ignored_row).unsqueeze(2)
        return Gradients(rows, list(copies))


class PointwiseModel:
    """The model with a probe, zero, added behind each layer, and a copy for each point of every other parameter.

    Derivatives by the probes are those by the layers' outputs; derivatives by the copies are gradients of single
    points. Both come from one backward pass over all points. The model sees batches of one, under ``vmap``, so no
    point can leak into another's gradient, whatever the model does with its dimensions. Where it cannot be run so
    the points go one after another.

    Args:
        snapshot: The model.
        layers: Its layers.
        others: Places of the other parameters whose gradients are wanted.

    Attributes:
        vectorised: Whether all points go through at once, as far as is known.
    """

    def __init__(self, snapshot: ModelSnapshot, layers: Sequence[Layer], others: Sequence[int]) -> None:
        self._snapshot = snapshot
        self._layers = layers
        self._others = others
        self.vectorised = True

    def run(self, batch: Batch, uses: Uses) -> Trace:
        """Runs on m points.

        Args:
            batch: The points, on the model's device.
            uses: What the model does with its parameters for a point like these.
        """
        places = {layer.weight: i for i, layer in enumerate(self._layers)}
        called = [
            (places[used.weight], shape)
            for used, shape in zip(uses.layers, uses.outputs, strict=True)
            if used.weight in places
        ]
        m, like = batch.points, self._snapshot.parameters[0]
        probes = [like.new_zeros((m, *shape)).requires_grad_() for _, shape in called]
        copies = [
            self._snapshot.parameters[i].expand(m, *self._snapshot.parameters[i].shape).clone().requires_grad_()
            for i in self._others
        ]
        calls: list[Call] = []

        def of_one(point: Inputs, probes: Sequence[Tensor], copies: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
            parameters = list(self._snapshot.parameters)
            for i, copy in zip(self._others, copies, strict=True):
                parameters[i] = copy
            tap = _Tap([self._snapshot.parameters[self._layers[i].weight] for i, _ in called], probes)
            with tap:
                output = self._snapshot.outputs(parameters, map_inputs(point, lambda part: part.unsqueeze(0)))
            if len(tap.calls) != len(called):
                raise DataMismatch(
                    "The model uses its layers in another way for some points than for others.",
                    given=f"{len(tap.calls)} layers, not {len(called)}",
                    hint="Kronecker factors need a fixed order of layers. Use cg, or the jacobi preconditioner.",
                )
            calls[:] = tap.calls
            return output[0], tap.inputs

        with torch.enable_grad():
            output, inputs = self._each(of_one, batch.x, probes, copies, m)
        return Trace(output, [i for i, _ in called], batch.w, [a.detach() for a in inputs], calls, probes, copies)

    def _each(
        self, of_one: Function, x: Inputs, probes: list[Tensor], copies: list[Tensor], points: int
    ) -> tuple[Tensor, list[Tensor]]:
        if self.vectorised:
            try:
                with warnings.catch_warnings():
                    # Operations without a batching rule run point by point, which is slow and right.
                    warnings.filterwarnings("ignore", message=".*performance drop.*")
                    found: tuple[Tensor, list[Tensor]] = torch.vmap(of_one)(x, probes, copies)
                return found
            except (RuntimeError, NotImplementedError, DataMismatch) as error:
                if is_out_of_memory(error):
                    raise
                self.vectorised = False
        results = [
            of_one(map_inputs(x, itemgetter(j)), [p[j] for p in probes], [c[j] for c in copies]) for j in range(points)
        ]
        inputs = [torch.stack(parts) for parts in zip(*(found for _, found in results), strict=True)]
        return torch.stack([output for output, _ in results]), inputs


class _Tap(TorchFunctionMode):
    """Keeps what enters each layer, and adds its probe to what leaves it.

    The probe is added before anything else sees the output, so an activation that works in place does not matter.
    """

    def __init__(self, weights: Sequence[Tensor], probes: Sequence[Tensor]) -> None:
        super().__init__()
        self._expected = [id(w) for w in weights]
        self._probes = probes
        self.inputs: list[Tensor] = []
        self.calls: list[Call] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        at = len(self.calls)
        if at == len(self._expected):
            return result
        call = call_of(func, args, kwargs)
        if call is None or id(call.weight) != self._expected[at]:
            return result
        self.calls.append(call)
        self.inputs.append(call.input)
        return result + self._probes[at]


def _positions(call: Call, grad: Tensor) -> Tensor:
    """``[m, r, out]`` of a derivative by a layer's outputs."""
    if call.kind != "convolution":
        return grad.reshape(grad.shape[0], -1, grad.shape[-1])
    m, channels = grad.shape[0], grad.shape[-3]
    return grad.reshape(m, -1, channels, grad.shape[-2] * grad.shape[-1]).transpose(2, 3).reshape(m, -1, channels)


def _patches(call: Call, x: Tensor) -> Tensor:
    """``[m, r, channels · height · width]`` of what lies under the kernel at each position."""
    m, kernel = x.shape[0], call.weight.shape[-2:]
    images = x.reshape(-1, *x.shape[-3:])
    stride, dilation = _pair(call.stride), _pair(call.dilation)
    if isinstance(call.padding, str):
        whole = [d * (k - 1) if call.padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        # torch puts the odd one behind.
        images = F.pad(images, (whole[1] // 2, whole[1] - whole[1] // 2, whole[0] // 2, whole[0] - whole[0] // 2))
        padding = (0, 0)
    else:
        padding = _pair(call.padding)
    rows = F.unfold(images, (kernel[0], kernel[1]), dilation=dilation, padding=padding, stride=stride)
    return rows.transpose(1, 2).reshape(m, -1, rows.shape[1])


def _pair(value: Any) -> tuple[int, int]:
    """A setting for both dimensions; torch takes a number, a sequence of one or of two."""
    values = (value, value) if isinstance(value, int) else tuple(value)
    return (values[0], values[-1])
