"""Records the operations that a linear function does to its arguments, to be applied again without the rest.

The product with a vector by a retained graph asks autograd for the same operations each time. Seen once as they are
dispatched, those that depend on the vector are a trace; whatever else they read is a constant by then. Unlike
``torch.func.linearize`` this traces no fake tensors and imports no compiler: it takes about as long as two products,
where the other takes a hundred milliseconds and more.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from solvers.nested import tensors_in

__all__ = ["Kind", "Recording", "Unrecordable", "bytes_of", "record"]

aten: Final = torch.ops.aten

ABOUT_SHAPES: Final = frozenset({"aten::is_same_size", "aten::sym_size", "aten::sym_stride", "aten::sym_numel"})
"""Operations whose results are no tensors and yet the same for each vector."""
FILLED: Final = frozenset(
    {f"aten::{name}_like" for name in ("zeros", "ones", "full", "empty")}
    | {f"aten::new_{name}" for name in ("zeros", "ones", "full", "empty")}
)
"""Operations that look at their arguments' shapes only."""


class Unrecordable(NotImplementedError):
    """What a function does to its arguments depends on their values, or on memory that it shares."""


@dataclass(frozen=True)
class Kind:
    """What a value of a trace looks like."""

    shape: torch.Size
    dtype: torch.dtype
    stride: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """That of a tensor."""
        return cls(tensor.shape, tensor.dtype, tensor.stride())

    @property
    def is_dense(self) -> bool:
        """Whether it fills its memory, each place once: elementwise results of such values lie as they do."""
        return _fills(sorted(zip(self.stride, self.shape, strict=True)))

    @property
    def is_contiguous(self) -> bool:
        """Whether it lies as what a matrix product returns."""
        return _fills(reversed(list(zip(self.stride, self.shape, strict=True))))

    def empty_like(self, tensor: Tensor) -> Tensor:
        """Memory for a value of this kind, on the device of the tensor."""
        return torch.empty_strided(self.shape, self.stride, dtype=tensor.dtype, device=tensor.device)


@dataclass(frozen=True, eq=False)
class Recording:
    """A linear function as a trace.

    Attributes:
        trace: Takes the vectors, returns a tuple.
        kinds: What the values on its way look like.
        constants: The nodes that read what is the same in each application, and what that is.
        vectors: What the function was called with.
        outputs: What it returned.
    """

    trace: GraphModule
    kinds: dict[Node, Kind]
    constants: dict[Node, Tensor]
    vectors: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def constant(self, name: str, value: Tensor) -> Node:
        """Adds a constant where the graph inserts."""
        self.trace.register_buffer(name, value)
        node = self.trace.graph.get_attr(name)
        self.kinds[node], self.constants[node] = Kind.of(value), value
        return node

    def drop_unread(self) -> None:
        """Lets go of the constants that no operation reads."""
        read = {node.target for node in self.trace.graph.nodes if node.op == "get_attr"}
        for name in [name for name, _ in self.trace.named_buffers() if name not in read]:
            delattr(self.trace, name)

    @property
    def nbytes(self) -> int:
        """Bytes of the constants."""
        return bytes_of(self.trace.buffers())


def record(function: Callable[[tuple[Tensor, ...]], Sequence[Tensor]], like: Sequence[Tensor]) -> Recording:
    """The operations of a linear function.

    Args:
        function: From a tuple of tensors to another. It is called once, with vectors drawn at random.
        like: Tensors of the shapes, dtypes and devices of the vectors.

    Raises:
        Unrecordable: It looks at the values of its arguments, or writes into memory that others read.
    """
    generator = torch.Generator().manual_seed(0)
    vectors = tuple(
        torch.randn(t.shape, generator=generator, dtype=torch.float32).to(device=t.device, dtype=t.dtype) for t in like
    )
    recorder = _Recorder(vectors)
    with recorder:
        outputs = function(vectors)
    return recorder.finished(outputs)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes that tensors keep, what they share once; of a storage no more than they show of it."""
    shown: dict[int, dict[tuple[int, int], int]] = {}
    whole: dict[int, int] = {}
    for t in tensors:
        storage = t.untyped_storage()
        whole[storage.data_ptr()] = storage.nbytes()
        shown.setdefault(storage.data_ptr(), {})[t.data_ptr(), t.numel()] = t.numel() * t.element_size()
    return sum(min(whole[at], sum(parts.values())) for at, parts in shown.items())


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation below autograd, and notes those that depend on the vectors.

    Args:
        vectors: The arguments.
    """

    def __init__(self, vectors: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recording = Recording(GraphModule(torch.nn.Module(), Graph()), {}, {}, tuple(vectors), ())
        # Values are told apart by their identity. They go as soon as the function lets go of them, and their entries
        # with them: held until the end, they would take several times the memory of the function itself.
        self._nodes: MutableMapping[Tensor, Node] = WeakTensorKeyDictionary()
        self._read: dict[int, tuple[Node, Tensor, int]] = {}
        # By address; held, or other values might come to lie there.
        self._written: dict[int, Tensor] = {}
        for i, v in enumerate(vectors):
            self._note(v, self._graph.placeholder(f"v{i}"))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Left alone by torch's compiler, which torch would import for nothing but to keep it away: a second."""
        return False

    @property
    def _graph(self) -> Graph:
        return self._recording.trace.graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Does an operation, and takes it down where a vector has a part in it."""
        kwargs = kwargs or {}
        if func._schema.name in FILLED:
            return func(*args, **kwargs)
        if not any(t in self._nodes for t in tensors_in((args, kwargs))):
            if self._written and any(_address(t) in self._written for t in tensors_in((args, kwargs))):
                raise Unrecordable(f"{func} reads what depends on a vector by another name")
            return func(*args, **kwargs)
        self._own_what_is_written(func, args, kwargs)
        # Constants are read before the operation, which may write into another view of theirs.
        given, named = map_aggregate(args, self._argument), map_aggregate(kwargs, self._argument)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            self._note(result, self._graph.call_function(func, given, named))
        elif isinstance(result, (tuple, list)) and all(part is None or isinstance(part, Tensor) for part in result):
            node = self._graph.call_function(func, given, named)
            for i, part in enumerate(result):
                if part is not None:
                    self._note(part, self._graph.call_function(operator.getitem, (node, i)))
        elif func._schema.name not in ABOUT_SHAPES:
            raise Unrecordable(f"{func} looks at the values of a vector")
        return result

    def finished(self, outputs: Sequence[Tensor]) -> Recording:
        """The recording, once the function has returned these."""
        self._graph.output(tuple(self._argument(t) for t in outputs))
        if any(tensor._version != version for _, tensor, version in self._read.values()):
            raise Unrecordable("a constant is written into after it was read")
        self._graph.lint()
        self._recording.trace.recompile()
        return replace(self._recording, outputs=tuple(outputs))

    def _argument(self, value: Any) -> Any:
        """What stands for an argument in the trace."""
        if not isinstance(value, Tensor):
            return value
        node = self._nodes.get(value)
        if node is not None:
            return node
        if id(value) not in self._read:
            if _address(value) in self._written:
                raise Unrecordable("a constant shares its memory with what depends on a vector")
            read = self._recording.constant(f"_constant_{len(self._read)}", value.detach())
            self._read[id(value)] = (read, value, value._version)
        return self._read[id(value)][0]

    def _note(self, value: Tensor, node: Node) -> None:
        self._nodes[value] = node
        self._recording.kinds[node] = Kind.of(value)

    def _own_what_is_written(self, func: Any, args: Any, kwargs: Any) -> None:
        """Has each application write into a copy of its own, where an operation writes into a constant."""
        if not func._schema.is_mutable:
            return
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            written = args[place] if place < len(args) else kwargs.get(argument.name)
            if not isinstance(written, Tensor):
                raise Unrecordable(f"{func} writes into several tensors")
            if written in self._nodes:
                continue
            if id(written) in self._read or written.numel() * written.element_size() != _size(written):
                raise Unrecordable(f"{func} writes into what others may read")
            source = self._recording.constant(f"_written_{len(self._written)}", written.clone())
            self._written[_address(written)] = written
            self._note(written, self._graph.call_function(aten.clone.default, (source,)))


def _fills(places: Iterable[tuple[int, int]]) -> bool:
    """Whether strides and sizes, the innermost first, leave no gap and no overlap."""
    expected = 1
    for stride, size in places:
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _size(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
