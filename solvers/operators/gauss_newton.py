"""Products JᵀBJ of one chunk: J is the Jacobian of outputs (or losses), B a symmetric map at them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from solvers.losses.likelihood import OutputCurvature
from solvers.operators.products import ChunkProduct, Parts, pulled_back, quiet_batching

__all__ = ["ForwardGaussNewton", "GraphGaussNewton", "MappedOutput", "Middle"]

Function = Callable[[Sequence[Tensor]], Tensor]

Middle = Callable[[Tensor], ChunkProduct]
"""B at given outputs, as a product of tuples with one part."""


class MappedOutput:
    """B as a map of one tangent of the output.

    Args:
        function: The map.
    """

    def __init__(self, function: OutputCurvature) -> None:
        self._function = function

    def one(self, v: Parts) -> Parts:
        """B applied to one tangent."""
        return (self._function(v[0]),)

    def many(self, V: Parts) -> Parts:
        """B applied to k tangents."""
        return (torch.vmap(self._function)(V[0]),)


class GraphGaussNewton:
    """Keeps the graph of the outputs and of a pull-back, which is linear and differentiated for the push-forward.

    Args:
        function: The chunk's outputs as a function of the parameters.
        middle: B at the outputs.
        parameters: The values at which to differentiate; not changed.
    """

    def __init__(self, function: Function, middle: Middle, parameters: Sequence[Tensor]) -> None:
        self._leaves = tuple(p.detach().requires_grad_() for p in parameters)
        with torch.enable_grad():
            self._output = function(self._leaves)
            self._cotangent = torch.zeros_like(self._output, requires_grad=True)
            pulled = torch.autograd.grad(
                self._output,
                self._leaves,
                self._cotangent,
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        self._active = [i for i, g in enumerate(pulled) if g.requires_grad]
        self._pulled = [pulled[i] for i in self._active]
        self._middle = middle(self._output.detach())

    def one(self, v: Parts) -> Parts:
        """The product with one vector."""
        pushed = pulled_back(self._pulled, (self._cotangent,), [v[i] for i in self._active])
        return pulled_back((self._output,), self._leaves, self._middle.one(pushed))

    def many(self, V: Parts) -> Parts:
        """The products with k vectors in vectorised passes."""
        with quiet_batching():
            rows = [V[i] for i in self._active]
            pushed = pulled_back(self._pulled, (self._cotangent,), rows, batched=True)
            return pulled_back((self._output,), self._leaves, self._middle.many(pushed), batched=True)


class ForwardGaussNewton:
    """Pushes forward along with the outputs themselves, anew each time; keeps nothing but B.

    Args:
        function: The chunk's outputs as a function of the parameters.
        middle: B at the outputs.
        parameters: The values at which to differentiate; not changed.
    """

    def __init__(self, function: Function, middle: Middle, parameters: Sequence[Tensor]) -> None:
        self._function = function
        self._make_middle = middle
        self._parameters = tuple(p.detach() for p in parameters)
        self._middle: ChunkProduct | None = None

    def one(self, v: Parts) -> Parts:
        """The product with one vector."""
        leaves = tuple(p.detach().requires_grad_() for p in self._parameters)
        with torch.enable_grad():
            output, pushed = torch.func.jvp(lambda *at: self._function(at), leaves, v)[:2]
            (bent,) = self._at(output).one((pushed.detach(),))
            return pulled_back((output,), leaves, (bent,))

    def many(self, V: Parts) -> Parts:
        """The products with k vectors under ``vmap``."""

        def function(*parameters: Tensor) -> Tensor:
            return self._function(parameters)

        with quiet_batching():
            output, pull = torch.func.vjp(function, *self._parameters)[:2]
            pushed = torch.vmap(lambda *v: torch.func.jvp(function, self._parameters, v)[1])(*V)
            (bent,) = self._at(output).many((pushed,))
            pulled: Parts = torch.vmap(pull)(bent)
            return pulled

    def _at(self, output: Tensor) -> ChunkProduct:
        if self._middle is None:
            self._middle = self._make_middle(output.detach())
        return self._middle
