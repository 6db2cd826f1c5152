"""Second-derivative products of one chunk of data: ways to compute them, and to apply them to many rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from solvers.operators.fusion import fuse
from solvers.operators.recording import bytes_of, record

__all__ = [
    "ChunkProduct",
    "ForwardProduct",
    "GraphProduct",
    "GraphSize",
    "LinearizedProduct",
    "OtherProducts",
    "Parts",
    "graph_size",
    "is_batched",
    "pulled_back",
    "quiet_batching",
]

SYMBOLIC_SHAPES: Final = "torch.fx.experimental.symbolic_shapes"

Objective = Callable[[Sequence[Tensor]], Tensor]
Parts = tuple[Tensor, ...]


class ChunkProduct(Protocol):
    """The curvature of one chunk at fixed parameters."""

    def one(self, v: Parts) -> Parts:
        """The product with one vector, in the shapes of the parameters."""

    def many(self, V: Parts) -> Parts:
        """The products with k vectors at once; every part has a leading dimension k."""


class OtherProducts(RuntimeError):
    """Two ways to compute the same product did not agree: a trace gone stale or wrong."""


class GraphProduct:
    """Differentiates a retained gradient graph: next to no cost to set up, about two gradients a product.

    Args:
        objective: The chunk's objective as a function of the parameters.
        parameters: The values at which to differentiate; not changed.
    """

    def __init__(self, objective: Objective, parameters: Sequence[Tensor]) -> None:
        self._leaves = tuple(p.detach().requires_grad_() for p in parameters)
        with torch.enable_grad():
            gradient = torch.autograd.grad(
                objective(self._leaves),
                self._leaves,
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        # A part that does not depend on the parameters (a linear loss) has the second derivative 0.
        self._active = [i for i, g in enumerate(gradient) if g.requires_grad]
        self._gradient = [gradient[i] for i in self._active]

    def one(self, v: Parts) -> Parts:
        """The product with one vector."""
        return self._differentiate(v, batched=False)

    def many(self, V: Parts) -> Parts:
        """The products with k vectors in one vectorised backward pass."""
        with quiet_batching():
            return self._differentiate(V, batched=True)

    def _differentiate(self, v: Parts, *, batched: bool) -> Parts:
        if not self._active:
            return tuple(torch.zeros_like(part) for part in v)
        return pulled_back(self._gradient, self._leaves, [v[i] for i in self._active], batched=batched)


class ForwardProduct:
    """Differentiates the gradient in forward mode, anew each time; keeps nothing.

    Args:
        objective: The chunk's objective as a function of the parameters.
        parameters: The values at which to differentiate; not changed.
    """

    def __init__(self, objective: Objective, parameters: Sequence[Tensor]) -> None:
        self._gradient = torch.func.grad(lambda *at: objective(at), argnums=tuple(range(len(parameters))))
        self._values = tuple(p.detach() for p in parameters)

    def one(self, v: Parts) -> Parts:
        """The product with one vector."""
        products: Parts = torch.func.jvp(self._gradient, self._values, tuple(v))[1]
        return products

    def many(self, V: Parts) -> Parts:
        """The products with k vectors at once, under ``vmap``."""
        with quiet_batching():
            products: Parts = torch.vmap(lambda *v: self.one(v))(*V)
        return products


class LinearizedProduct:
    """The operations of another product that depend on the vector, recorded once and made fewer.

    Takes about two products to set up, and is then faster than what was recorded: nobody differentiates any more,
    and the rewritten trace passes over the activations less often. See :mod:`solvers.operators.recording`.

    Args:
        product: What to record; not needed afterwards.
        parameters: Tensors of the shapes, dtypes and devices of the vectors' parts.

    Attributes:
        nbytes: What the trace keeps in memory.

    Raises:
        Unrecordable: What the product does cannot be repeated from a record of it.
        OtherProducts: The record was repeated, and gave something else.
    """

    def __init__(self, product: ChunkProduct, parameters: Sequence[Tensor]) -> None:
        recording = record(product.one, parameters)
        fuse(recording)
        self.trace = recording.trace
        self.nbytes = recording.nbytes
        whole = torch.stack([seen.double().norm().cpu() for seen in recording.outputs]).norm()
        for found, seen in zip(self.one(recording.vectors), recording.outputs, strict=True):
            close = torch.finfo(seen.dtype).eps ** 0.5
            # A part may be zero but for rounding, such as that of attention's key biases: there is nothing to repeat.
            if bool((found - seen).double().norm().cpu() > close * (seen.double().norm().cpu() + close * whole)):
                raise OtherProducts("the record gave other products than what was recorded")

    def one(self, v: Parts) -> Parts:
        """The product with one vector."""
        with torch.no_grad():
            products: Parts = self.trace(*v)
        return products

    def many(self, V: Parts) -> Parts:
        """The products with k vectors at once, under ``vmap``."""
        with torch.no_grad(), quiet_batching():
            products: Parts = torch.vmap(self.trace)(*V)
        return products


def pulled_back(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor], *, batched: bool = False
) -> Parts:
    """Vectors times the Jacobian of a graph that is retained; with ``batched``, k vectors at once."""
    given: dict[str, Any] = {"grad_outputs": vectors, "is_grads_batched": batched}
    if not batched and SYMBOLIC_SHAPES not in sys.modules:
        # To look at vectors that are given, torch imports its symbolic shapes and with them sympy: a third of a
        # second in a process that needs neither. The derivative of the inner product is the same to the last bit.
        with torch.enable_grad():
            outputs = [torch.stack([(o * v).sum() for o, v in zip(outputs, vectors, strict=True)]).sum()]
        given = {}
    found = torch.autograd.grad(outputs, inputs, retain_graph=True, allow_unused=True, **given)
    # Torch would fill in zeros for one vector where there are k.
    lead = vectors[0].shape[:1] if batched else ()
    return tuple(
        part if part is not None else one.new_zeros((*lead, *one.shape))
        for part, one in zip(found, inputs, strict=True)
    )


def is_batched(product: LinearizedProduct, V: Parts) -> bool:
    """Whether torch has a batching rule for all that a product does; without one it would go row by row, or fail.

    Args:
        product: The product.
        V: A few vectors to try it with.
    """
    _switch_fallback("_set_vmap_fallback_enabled", on=False)
    try:
        product.many(V)
    except Exception:  # batching rules raise whatever they like
        return False
    finally:
        _switch_fallback("_set_vmap_fallback_enabled", on=True)
    return True


@contextmanager
def quiet_batching() -> Iterator[None]:
    """Says nothing of operations without a batching rule: they run row by row, and a measurement sees the cost."""
    _switch_fallback("_set_vmap_fallback_warning_enabled", on=False)
    try:
        yield
    finally:
        _switch_fallback("_set_vmap_fallback_warning_enabled", on=True)


def _switch_fallback(name: str, *, on: bool) -> None:
    """One of torch's switches for operations without a batching rule; both are on unless they are turned off.

    They are private: a torch that has none warns, or goes row by row where it could have been known before.
    """
    switch = getattr(getattr(torch._C, "_functorch", None), name, None)
    if switch is not None:
        switch(on)


@dataclass(frozen=True)
class GraphSize:
    """What graphs keep.

    Attributes:
        nbytes: Bytes beyond the parameters themselves.
        saved: Number of saved tensors, which says how long the computation is.
    """

    nbytes: float
    saved: int


def graph_size(make: Callable[[], object], parameters: Sequence[Tensor]) -> GraphSize:
    """The size of the graphs in an object.

    Args:
        make: Makes the object.
        parameters: What its graphs start from.
    """
    held: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        make()
    own = {p.untyped_storage().data_ptr() for p in parameters}
    return GraphSize(bytes_of(t for t in held if t.untyped_storage().data_ptr() not in own), len(held))
