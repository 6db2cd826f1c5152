"""Second-derivative products of one chunk of data: two ways to compute them, and to apply them to many rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from solvers.operators.tracing import held_bytes, protect_constants, refuse_untraceable, trace_of

__all__ = ["ChunkProduct", "GraphProduct", "LinearizedProduct", "graph_bytes"]

Objective = Callable[[Sequence[Tensor]], Tensor]
Parts = tuple[Tensor, ...]


class ChunkProduct(Protocol):
    """The Hessian of one chunk's objective at fixed parameters."""

    def one(self, v: Parts) -> Parts:
        """The product with one vector, in the shapes of the parameters."""

    def many(self, V: Parts) -> Parts:
        """The products with k vectors at once; every part has a leading dimension k."""


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
        if not self._active:
            return tuple(torch.zeros_like(part) for part in V)
        with warnings.catch_warnings():
            # Operations without a batching rule run row by row; the measurement sees what that costs.
            warnings.filterwarnings("ignore", message=".*performance drop.*")
            return self._differentiate(V, batched=True)

    def _differentiate(self, v: Parts, *, batched: bool) -> Parts:
        if not self._active:
            return tuple(torch.zeros_like(p) for p in self._leaves)
        return torch.autograd.grad(
            self._gradient,
            self._leaves,
            grad_outputs=[v[i] for i in self._active],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
            is_grads_batched=batched,
        )


class LinearizedProduct:
    """The gradient linearised once, forward over reverse; slow to set up, then often the fastest product.

    Args:
        objective: The chunk's objective as a function of the parameters.
        parameters: The values at which to differentiate; not changed.

    Attributes:
        nbytes: What the linearisation keeps in memory.

    Raises:
        NotImplementedError: The objective uses an operation whose second derivative cannot be traced.
    """

    def __init__(self, objective: Objective, parameters: Sequence[Tensor]) -> None:
        values = tuple(p.detach() for p in parameters)
        refuse_untraceable(objective, values)

        def gradient(*at: Tensor) -> Parts:
            grads: Parts = torch.func.grad(lambda ps: objective(ps))(at)
            return grads

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*get_attr Node.*")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            _, self._apply = torch.func.linearize(gradient, *values)
        trace = trace_of(self._apply)
        protect_constants(trace)
        self.nbytes = held_bytes(trace)

    def one(self, v: Parts) -> Parts:
        """The product with one vector."""
        products: Parts = self._apply(*v)
        return products

    def many(self, V: Parts) -> Parts:
        """The products with k vectors at once, under ``vmap``."""
        products: Parts = torch.vmap(self._apply)(*V)
        return products


def graph_bytes(objective: Objective, parameters: Sequence[Tensor]) -> int:
    """Bytes that a retained gradient graph keeps alive beyond the parameters themselves."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        # Held until the count is done, or a freed storage's address could be counted as another's.
        product = GraphProduct(objective, parameters)
    for p in parameters:
        storages.pop(p.untyped_storage().data_ptr(), None)
    del product
    return sum(storages.values())
