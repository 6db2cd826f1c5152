"""Makes traces of ``torch.func.linearize`` safe to apply more than once.

In torch 2.13 a trace may update a folded constant in place, which is right in the first application and wrong in
every later one; and one operation ends the process while it is traced.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

__all__ = ["drop_unread", "fold_constants", "held_bytes", "protect_constants", "refuse_untraceable", "trace_of"]


def refuse_untraceable(objective: Callable[[Sequence[Tensor]], Tensor], at: Sequence[Tensor]) -> None:
    """Looks for the operation whose second derivative kills the tracer by a segmentation fault.

    Raises:
        NotImplementedError: The objective uses it.
    """
    with torch.enable_grad():
        root = objective(tuple(v.detach().requires_grad_() for v in at)).grad_fn
    waiting, seen = [root], {root}
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if node.name().startswith("MseLossBackward"):
            raise NotImplementedError("torch cannot trace the second derivative of mse_loss")
        new = {following for following, _ in node.next_functions} - seen
        seen |= new
        waiting.extend(new)


def trace_of(linearized: Callable[..., Any]) -> GraphModule:
    """The graph that a linearised function runs.

    Raises:
        NotImplementedError: This version of torch hides it, so that it cannot be made safe.
    """
    for cell in getattr(linearized, "__closure__", None) or ():
        if isinstance(cell.cell_contents, GraphModule):
            return cell.cell_contents
    raise NotImplementedError("this version of torch hides the linearised graph")


def fold_constants(trace: GraphModule) -> None:
    """Computes now what is the same in each application, and lets go of what only that was computed from.

    Torch would do so in the first application, keep both, and copy each result: also views of one array.
    """
    constant = getattr(trace, "const_subgraph_module", None)
    name = getattr(trace, "fx_const_folded_attrs_name", None)
    if constant is None or name is None:
        return
    results = constant()
    if not isinstance(results, tuple) or not all(isinstance(r, Tensor) for r in results):
        return
    kept = [
        torch.nn.Parameter(r.detach() if _is_dense(r) else r.detach().clone(), requires_grad=False) for r in results
    ]
    setattr(trace, name, torch.nn.ParameterList(kept))
    trace.register_module("const_subgraph_module", None)
    drop_unread(trace)


def _is_dense(tensor: Tensor) -> bool:
    """Whether a copy would have the same strides, on which views of it in the trace may rely."""
    expected = 1
    for stride, size in sorted((st, si) for st, si in zip(tensor.stride(), tensor.shape, strict=True) if si > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def drop_unread(trace: GraphModule) -> None:
    """Lets go of tensors that no operation of a trace reads."""
    places: dict[str, set[int]] = {}
    whole: set[str] = set()
    for node in trace.graph.nodes:
        if node.op != "get_attr":
            continue
        for user in node.users:
            if user.target is operator.getitem:
                places.setdefault(node.target, set()).add(user.args[1])
            else:
                whole.add(node.target)
    held = {name.split(".")[0] for name, _ in (*trace.named_parameters(), *trace.named_buffers())}
    for owner in held - whole:
        if owner not in places:
            delattr(trace, owner)
            continue
        constants = getattr(trace, owner)
        for place in set(range(len(constants))) - places[owner]:
            constants[place] = torch.nn.Parameter(torch.empty(0), requires_grad=False)


def protect_constants(trace: GraphModule) -> None:
    """Lets each application of a trace work on copies of the constants that it updates in place."""
    constants = {
        user
        for node in trace.graph.nodes
        if node.op == "get_attr"
        for user in ([node, *node.users] if node.target == "_FX_CONST_FOLDED_ATTRS" else [node])
    }
    updated: set[Node] = set()
    for node in trace.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            source = _source(node.args[0])
            if source is not None and source in constants:
                updated.add(source)
    for node in updated:
        users = list(node.users)
        with trace.graph.inserting_after(node):
            copy = trace.graph.call_function(torch.ops.aten.clone.default, (node,))
        for user in users:
            user.replace_input_with(node, copy)
    if updated:
        trace.graph.lint()
        trace.recompile()


def _source(node: Any) -> Node | None:
    """The node whose memory a chain of views and in-place updates shares."""
    while isinstance(node, Node) and node.op == "call_function" and node.target is not operator.getitem:
        schema = getattr(node.target, "_schema", None)
        aliases = schema is not None and any(r.alias_info is not None for r in schema.returns)
        # reshape and contiguous say nothing of aliasing and may return their argument.
        if not aliases and node.target not in (torch.ops.aten.reshape.default, torch.ops.aten.contiguous.default):
            return None
        node = node.args[0]
    return node if isinstance(node, Node) else None


def held_bytes(trace: GraphModule) -> int:
    """Bytes of the constants that a trace keeps, each storage once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in [*trace.parameters(), *trace.buffers()]
    }
    return sum(storages.values())
