"""Whether torch can differentiate a model twice: tried on one point, before any work, and told by layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from ihvp.errors import InvalidInput, LossMismatch, UnsupportedLayer
from solvers.batch import Batch, Inputs, moved
from solvers.kernels import twice_differentiable_kernels
from solvers.nested import tensors_in
from solvers.operators.chunk_curvature import ChunkCurvature
from solvers.out_of_memory import is_out_of_memory, one_point_at_a_time

__all__ = ["require_second_derivatives"]

DEAD_END: Final = "torch::autograd::Error"
"""What torch puts behind a backward pass that must not be differentiated. Where it is not on the way to a parameter
it is never run: the derivative then comes out as zero, without a word."""
ONCE: Final = "its backward pass is marked as differentiable once only"
SPARSE: Final = "its gradient is a sparse tensor"


def require_second_derivatives(curvature: ChunkCurvature, point: Batch) -> None:
    """Tries a product with the curvature of one point.

    Args:
        curvature: What H is.
        point: A batch of one.

    Raises:
        UnsupportedLayer: An operation of the model has no second derivative; names the layer.
        LossMismatch: The outputs do not depend on the parameters.
        OutOfMemory: The point does not fit the memory that is free.
    """
    with twice_differentiable_kernels(), one_point_at_a_time():
        point = moved(point, curvature.snapshot.device)
        fault = _fault(curvature, point)
        if fault is None:
            return
        layer = _layer_at_fault(curvature, point.x)
    raise UnsupportedLayer(
        "torch cannot differentiate a layer twice, and every method needs that: to solve, or to certify its answer.",
        given=f"{layer}{fault}",
        allowed="layers made of operations whose backward pass can itself be differentiated",
        hint="Freeze the layer's parameters and those of all layers before it, or replace it: a sparse Embedding by "
        "one with sparse=False, EmbeddingBag by Embedding and a mean, once_differentiable by plain operations.",
    )


def _fault(curvature: ChunkCurvature, point: Batch) -> str | None:
    """What stands in the way, in torch's words or ours."""
    snapshot, terms = curvature.snapshot, curvature.terms
    leaves = tuple(p.detach().requires_grad_() for p in snapshot.parameters)
    with torch.enable_grad():
        output = snapshot.outputs(leaves, point.x)
        if not output.requires_grad:
            raise LossMismatch(
                "The model's outputs do not depend on the parameters that are to be solved for.",
                given=", ".join(snapshot.names[:5]) + (", …" if len(snapshot.names) > 5 else ""),
                hint="Does forward call detach() or run under no_grad()?",
            )
        loss = terms.per_point(output, point.y).sum()
        if not loss.requires_grad:
            return None  # flat at this point
        grads = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    found = _seen_in(grads)
    if found is not None:
        return found
    try:
        curvature.product(point, 0, "graph").one(tuple(torch.zeros_like(p) for p in snapshot.parameters))
    except InvalidInput:
        raise
    except RuntimeError as error:
        if is_out_of_memory(error) or not _says_so(error):
            raise
        return str(error).splitlines()[0][:200].rstrip(".")
    return None


def _says_so(error: RuntimeError) -> bool:
    """Whether an error is about a derivative that torch does not have."""
    return isinstance(error, NotImplementedError) or "is not implemented" in str(error)


def _seen_in(grads: Iterable[Tensor | None]) -> str | None:
    there = [g for g in grads if g is not None]
    if any(g.layout != torch.strided for g in there):
        return SPARSE
    waiting = [g.grad_fn for g in there]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if node.name() == DEAD_END:
            return ONCE
        new = {following for following, _ in node.next_functions} - seen
        seen |= new
        waiting.extend(new)
    return None


@dataclass(frozen=True)
class _Call:
    """One call of a module."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def _layer_at_fault(curvature: ChunkCurvature, x: Inputs) -> str:
    """Name and type of the innermost module that cannot be differentiated twice by itself, as a prefix; or nothing."""
    calls: list[_Call] = []
    snapshot = curvature.snapshot
    # For all modules of the process, for as long as one pass takes: the model itself is left as it is.
    hook = register_module_forward_hook(
        lambda module, args, kwargs, _: calls.append(_Call(module, args, kwargs)),
        with_kwargs=True,
    )
    try:
        with torch.no_grad():
            snapshot.outputs(snapshot.parameters, x)
    finally:
        hook.remove()
    names = {id(module): name for name, module in snapshot.modules()}
    for call in calls:
        if _cannot(call):
            return f"{names.get(id(call.module)) or 'the model'} ({type(call.module).__name__}): "
    return ""


def _cannot(call: _Call) -> bool:
    args = [_leaf(value) for value in call.args]
    kwargs = {name: _leaf(value) for name, value in call.kwargs.items()}
    wanted = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.requires_grad]
    wanted += [p for p in call.module.parameters() if p.requires_grad]
    try:
        with torch.enable_grad():
            outputs = [o for o in tensors_in(call.module(*args, **kwargs)) if o.requires_grad]
            if not outputs or not wanted:
                return False
            total = torch.stack([o.square().sum() for o in outputs]).sum()
            grads = torch.autograd.grad(total, wanted, create_graph=True, allow_unused=True)
            if _seen_in(grads) is not None:
                return True
            again = [g.square().sum() for g in grads if g is not None and g.requires_grad]
            if again:
                torch.autograd.grad(torch.stack(again).sum(), wanted, allow_unused=True)
    except RuntimeError as error:
        return _says_so(error)
    return False


def _leaf(value: Any) -> Any:
    usable = isinstance(value, Tensor) and value.is_floating_point()
    return value.detach().requires_grad_() if usable else value
