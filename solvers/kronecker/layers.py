"""Which parameters belong to layers whose curvature is known, found by how a model uses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from solvers.batch import Inputs
from solvers.nested import tensors_in
from solvers.snapshot import ModelSnapshot

__all__ = ["Call", "Layer", "Uses", "call_of", "find_layers", "uses_of"]


Kind = Literal["linear", "convolution", "lookup"]


@dataclass(frozen=True)
class Layer:
    """A weight, and the bias that is added to its products, by their places among the parameters.

    Attributes:
        weight: Of a linear map ``[out, in]`` or a convolution ``[out, in, height, width]``; or a table ``[rows, out]``
            from which an embedding looks rows up, whose curvature does not factor but is known from the same sums.
        bias: None where there is none to differentiate.
        kind: Which of the three.
    """

    weight: int
    bias: int | None
    kind: Kind

    @property
    def parameters(self) -> tuple[int, ...]:
        """The places of its parameters."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def matrix(self, parameters: Sequence[Tensor]) -> tuple[int, int]:
        """Rows and columns of its parameters as one matrix, the bias being a column."""
        weight = parameters[self.weight]
        return weight.shape[0], weight[0].numel() + (self.bias is not None)


@dataclass(frozen=True)
class Call:
    """One call of a layer's function, its arguments under their names."""

    kind: Kind
    input: Tensor
    weight: Tensor
    bias: Tensor | None = None
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    ignored_row: int | None = None


@dataclass(frozen=True)
class Uses:
    """How a model uses its parameters for one input.

    Attributes:
        layers: Calls of layers' functions, in order.
        outputs: The shape of what each of them returned.
        times: How often each parameter is used in whatever way.
    """

    layers: list[Layer]
    outputs: list[tuple[int, ...]]
    times: dict[int, int]


def call_of(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    """The call, if it is one of a linear map, an ungrouped convolution in two dimensions, or an embedding."""
    if function is F.linear:
        return Call("linear", *args, **kwargs)
    if function is F.conv2d:
        convolution = Call("convolution", *args, **kwargs)
        return convolution if convolution.groups == 1 else None
    return _lookup(*args, **kwargs) if function is F.embedding else None


def _lookup(
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,  # noqa: ARG001
    scale_grad_by_freq: bool = False,
    sparse: bool = False,  # noqa: ARG001
) -> Call | None:
    if max_norm is not None or scale_grad_by_freq:
        return None
    ignored = None if padding_idx is None else padding_idx % weight.shape[0]
    return Call("lookup", input, weight, ignored_row=ignored)


def uses_of(snapshot: ModelSnapshot, x: Inputs) -> Uses:
    """How the model uses its parameters for inputs ``x`` ``[m, ...]``."""
    recorder = _Recorder(snapshot.parameters)
    with torch.no_grad(), recorder:
        snapshot.outputs(snapshot.parameters, x)
    return recorder.uses


def find_layers(seen: Sequence[Uses]) -> list[Layer]:
    """The layers whose weights the model uses once, as nothing else, and always in the same way.

    A weight that is used twice (tied, or applied again to what it made), or by a function that is not known
    here, is not among them; a bias that is shared is left out of its layer.
    """
    once = {i for uses in seen for i in uses.times}
    once = {i for i in once if all(uses.times.get(i, 0) <= 1 for uses in seen)}
    found: dict[int, Layer] = {}
    for layer in (layer for uses in seen for layer in uses.layers):
        if layer.weight not in once:
            continue
        bias = layer.bias if layer.bias in once else None
        alike = Layer(layer.weight, bias, layer.kind)
        if found.setdefault(layer.weight, alike) != alike:
            once.discard(layer.weight)
    return [layer for weight, layer in found.items() if weight in once]


class _Recorder(TorchFunctionMode):
    """Notes each function that a parameter goes into, by the tensor itself: names and modules do not matter.

    A mode is seen by this thread alone and touches no module. Functions in Python, packed attention among them,
    are seen as one; what they do with their parameters is not looked into.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self._places = {id(p): i for i, p in enumerate(parameters)}
        self.uses = Uses([], [], {})

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        used = [self._places[id(t)] for t in tensors_in((args, kwargs)) if id(t) in self._places]
        # A shape or a dtype asked for is no use of the numbers.
        if not used or not any(True for _ in tensors_in(result)):
            return result
        for place in used:
            self.uses.times[place] = self.uses.times.get(place, 0) + 1
        call = call_of(func, args, kwargs)
        weight = None if call is None else self._places.get(id(call.weight))
        if call is not None and weight is not None:
            self.uses.layers.append(Layer(weight, self._places.get(id(call.bias)), call.kind))
            self.uses.outputs.append(tuple(result.shape))
        return result
