"""Makes traces of ``torch.func.linearize`` cheaper without changing what they compute.

A trace is a list of small operations, each of which reads and writes arrays as large as a layer's activations. Sums
that a matrix product can take in as it goes, sums with zeros, and derivatives that are the same in each
application are a third of the time of a small network on a processor.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

__all__ = ["fuse"]

aten: Final = torch.ops.aten

DERIVATIVES: Final = (
    aten.tanh_backward.default,
    aten.sigmoid_backward.default,
    aten.threshold_backward.default,
    aten.gelu_backward.default,
    aten.silu_backward.default,
    aten.elu_backward.default,
    aten.leaky_relu_backward.default,
    aten.softplus_backward.default,
    aten.hardtanh_backward.default,
)
"""Elementwise and linear in the first argument: a product with their value at one."""


def fuse(trace: GraphModule, *tangents: Tensor) -> None:
    """Rewrites a trace in place.

    Args:
        trace: What a linearised function runs; its constants are final.
        tangents: Arguments to run it with once, for the shapes on its way.
    """
    _Fusion(trace, tangents).run()


@dataclass(frozen=True)
class _Kind:
    """What a value of the trace looks like."""

    shape: torch.Size
    dtype: torch.dtype
    stride: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """That of a tensor."""
        return cls(tensor.shape, tensor.dtype, tensor.stride())

    def empty(self) -> Tensor:
        """A tensor of this kind without memory."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


class _Shapes(Interpreter):
    """Runs a trace and notes the tensors' shapes and, of constants, the values."""

    def __init__(self, trace: GraphModule) -> None:
        super().__init__(trace)
        self.kinds: dict[Node, _Kind] = {}
        self.constants: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.kinds[n] = _Kind.of(value)
            if _is_constant(n):
                self.constants[n] = value
        return value


class _Fusion:
    """One trace while it is rewritten.

    Args:
        trace: The trace.
        tangents: Arguments of a run.
    """

    def __init__(self, trace: GraphModule, tangents: tuple[Tensor, ...]) -> None:
        self._trace = trace
        self._graph = trace.graph
        shapes = _Shapes(trace)
        shapes.run(*tangents)
        self._kinds, self._constants = shapes.kinds, shapes.constants
        self._added = 0

    def run(self) -> None:
        """All rewritings, each over the whole trace."""
        rewritings: tuple[Callable[[Node], None], ...] = (
            self._drop_copy,
            self._drop_zeros,
            self._fold_derivative,
            self._add_in_product,
            self._multiply_and_add,
        )
        for rewrite in rewritings:
            for node in list(self._graph.nodes):
                if node.op == "call_function" and (node.users or node.target is aten.copy_.default):
                    rewrite(node)
        self._drop_unused()
        self._graph.lint()
        self._trace.recompile()

    def _drop_copy(self, node: Node) -> None:
        """A fresh array that only receives a copy: the original does, as long as nobody changes it."""
        if node.target is not aten.copy_.default or len(node.args) != 2:
            return
        fresh, original = node.args
        if (
            isinstance(fresh, Node)
            and isinstance(original, Node)
            and fresh.target is aten._new_zeros_with_same_feature_meta.default
            and self._kinds.get(fresh) == self._kinds.get(original)
            and set(fresh.users) == {node}
            and not _is_changed(node)
            and not _is_changed(original)
        ):
            node.replace_all_uses_with(original)

    def _drop_zeros(self, node: Node) -> None:
        """A sum with a constant that is zero: the other summand, as long as shapes are made elsewhere."""
        for x, zero in _summands(node):
            constant = self._constants.get(zero)
            if constant is None or bool(constant.count_nonzero()) or self._dtype(x) != self._dtype(node):
                continue
            same = self._kinds.get(x) == self._kinds.get(node)
            if not _is_changed(node) and (same or all(self._is_broadcast(user, node) for user in node.users)):
                node.replace_all_uses_with(x)
                return

    def _is_broadcast(self, user: Node, node: Node) -> bool:
        """Whether a sum makes a summand's shape, so that a smaller one does as well."""
        others = [other for one, other in _summands(user) if one is node]
        return bool(others) and all(
            other is not node and self._shape(other) == self._shape(user) and self._dtype(other) == self._dtype(user)
            for other in others
        )

    def _fold_derivative(self, node: Node) -> None:
        """An activation's derivative is the same in each application: a factor."""
        if node.target not in DERIVATIVES:
            return
        x, *rest = node.args
        if not isinstance(x, Node) or self._shape(x) != self._shape(node):
            return
        values = [self._constants.get(a) if isinstance(a, Node) else a for a in rest]
        if any(value is None for value in values) or any(isinstance(v, Node) for v in node.kwargs.values()):
            return
        kind = self._kinds[node]
        like = next((v for v in values if isinstance(v, Tensor)), None)
        if like is None or like.shape != kind.shape:
            return
        with torch.no_grad():
            factor = node.target(torch.ones_like(like), *values, **node.kwargs)
        if not bool(factor.isfinite().all()):
            return
        constant = self._constant(node, factor)
        self._replace(node, aten.mul.Tensor, (x, constant))

    def _add_in_product(self, node: Node) -> None:
        """A sum with a matrix product that nobody else needs: the product adds to the other summand."""
        for other, product in _summands(node):
            if product.target is not aten.mm.default or len(product.users) > 1 or other is product:
                continue
            shape = self._shape(other)
            if (
                shape is not None
                and len(shape) <= 2
                and self._shape(product) == self._shape(node)
                and self._dtype(product) == self._dtype(other) == self._dtype(node)
            ):
                self._replace(node, aten.addmm.default, (other, *product.args))
                return

    def _multiply_and_add(self, node: Node) -> None:
        """A sum with an elementwise product that nobody else needs: one pass over the arrays."""
        for other, product in _summands(node):
            if product.target is not aten.mul.Tensor or len(product.users) > 1 or other is product:
                continue
            factors = [a for a in product.args if isinstance(a, Node)]
            involved = [other, *factors]
            if len(factors) == 2 and all(self._kinds.get(a) == self._kinds.get(node) for a in involved):
                self._replace(node, aten.addcmul.default, (other, *factors))
                return

    def _shape(self, node: Any) -> torch.Size | None:
        kind = self._kinds.get(node)
        return None if kind is None else kind.shape

    def _dtype(self, node: Any) -> torch.dtype | None:
        kind = self._kinds.get(node)
        return None if kind is None else kind.dtype

    def _constant(self, before: Node, value: Tensor) -> Node:
        """A new constant of the trace."""
        name = f"_fused_{self._added}"
        self._added += 1
        self._trace.register_buffer(name, value)
        with self._graph.inserting_before(before):
            node = self._graph.get_attr(name)
        self._kinds[node] = _Kind.of(value)
        self._constants[node] = value
        return node

    def _replace(self, node: Node, target: Any, args: tuple[Any, ...]) -> None:
        """Another operation in a node's place, unless its result would lie in memory in another order.

        Views further on may rely on the order.
        """
        kind = self._kinds[node]
        with torch.no_grad():
            result = target(*(self._kinds[a].empty() if isinstance(a, Node) else a for a in args))
        if _Kind.of(result) != kind:
            return
        with self._graph.inserting_before(node):
            new = self._graph.call_function(target, args)
        self._kinds[new] = kind
        node.replace_all_uses_with(new)
        self._graph.erase_node(node)

    def _drop_unused(self) -> None:
        """Takes out what no result depends on, and the constants that only it read."""
        changing = {n for n in self._graph.nodes if _changes(n)}
        for node in reversed(list(self._graph.nodes)):
            if node.op not in ("placeholder", "output") and not node.users:
                fresh = node.args[0] if node in changing else None
                unread = (
                    isinstance(fresh, Node)
                    and fresh.target is aten._new_zeros_with_same_feature_meta.default
                    and set(fresh.users) == {node}
                )
                if node not in changing or unread:
                    self._graph.erase_node(node)


def _is_constant(node: Node) -> bool:
    """Whether a node reads what the trace keeps."""
    if node.op == "get_attr":
        return True
    source = node.args[0] if node.args else None
    return node.target is operator.getitem and isinstance(source, Node) and (source.op == "get_attr")


def _summands(node: Node) -> tuple[tuple[Node, Node], ...]:
    """Both summands of a plain sum, in both orders."""
    if node.target is not aten.add.Tensor or node.kwargs or len(node.args) != 2:
        return ()
    a, b = node.args
    return ((a, b), (b, a)) if isinstance(a, Node) and isinstance(b, Node) else ()


def _changes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _is_changed(node: Node) -> bool:
    """Whether an operation writes into this value, or into a view of it."""
    waiting, seen = [node], {node}
    while waiting:
        for user in waiting.pop().users:
            if _changes(user) and user.args and user.args[0] in seen:
                return True
            schema = getattr(user.target, "_schema", None)
            aliases = schema is None or any(r.alias_info is not None for r in schema.returns)
            if (aliases or user.target in (aten.reshape.default, aten.contiguous.default)) and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False
