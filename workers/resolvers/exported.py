"""A module made of an exported program: its parameters under their names, its operators called one by one."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from ihvp.errors import InvalidExport, NonFiniteWeights
from ihvp.exports import Archive, ExportProgram, Node, StoredWeight, read_program
from ihvp.exports.archive import open_archive
from ihvp.exports.arguments import Device, Dtype, Layout, MemoryFormat, Value
from workers.resolvers.files import FileAccess

__all__ = ["ExportedModule", "load_export"]

_SYMBOLIC: Final = "_operator."
_SAME: Final = 1e-4
"""Relative difference up to which outputs of points together and alone are the same, in float32."""


def load_export(files: FileAccess, digest: str, dtype: torch.dtype) -> ExportedModule:
    """The module of a ``.pt2`` blob, in evaluation mode, in ``dtype``.

    The archive is read as JSON and raw bytes: nothing in it is unpickled, evaluated or imported.

    Raises:
        BlobNotFound: No blob has this digest.
        InvalidExport: It is no program that can be read safely.
        NonFiniteWeights: A tensor holds NaN or infinity.
    """
    with open_archive(files.local_path(digest)) as archive:
        program = read_program(archive)
        stored = [*program.parameters, *program.buffers, *program.constants]
        tensors = {weight.name: _read_tensor(archive, weight) for weight in stored}
    for weight in program.parameters:
        if not bool(torch.isfinite(tensors[weight.name]).all()):
            raise NonFiniteWeights(
                "The weights hold NaN or infinity.", given=weight.name, hint="Check that the training run converged."
            )
    return ExportedModule(program, tensors).to(dtype).eval()


class ExportedModule(nn.Module):
    """Runs a program. It calls operators of torch as the module would that it was exported from.

    Inputs are given in the program's order, or by name. Where the program names the dtype of its parameters, that of
    the parameters at the time of the call is meant, so that a program exported in float32 solves in float64 too; and
    devices that it names are the one that its inputs are on.

    Args:
        program: What to run.
        tensors: Its parameters, buffers and constants by name.
    """

    def __init__(self, program: ExportProgram, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        # Before the tensors: one of the same name as any of these is refused then.
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self._leaves = dict(program.leaves)
        self._inputs = list(program.inputs)
        self._output = program.output
        self._first = program.parameters[0].name
        self._steps = [_Step.of(node, program.dtype) for node in program.nodes]
        self._forget()
        # Parameters first: the order in which modules are made is that of named_parameters().
        for weight in program.parameters:
            self._place(weight.name, nn.Parameter(tensors[weight.name]))
        for weight in program.buffers:
            self._place(weight.name, tensors[weight.name])
        for number, weight in enumerate(program.constants):
            # A constant may have the name of what is no module's: it gets one that no tensor of an archive can have.
            self.register_buffer(f"__constant_{number}", tensors[weight.name], persistent=False)
            self._places[weight.name] = (self, f"__constant_{number}")

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """The program's output ``[n, ...]`` for inputs ``[n, ...]``.

        Raises:
            TypeError: These are not its inputs.
        """
        values: dict[str, Any] = dict(zip(self._inputs, inputs, strict=False)) | named
        if len(inputs) + len(named) != len(self._inputs) or set(values) != set(self._inputs):
            raise TypeError(f"the program takes {', '.join(self._inputs)}; given: {len(inputs)} and {sorted(named)}")
        here = values[self._inputs[0]].device
        for value, name in self._leaves.items():
            owner, attribute = self._places[name]
            values[value] = getattr(owner, attribute)
        owner, attribute = self._places[self._first]
        now = _Now(values, getattr(owner, attribute).dtype, here)
        for step in self._steps:
            step.run(now)
        output: Tensor = values[self._output]
        return output

    def check_points_apart(self, x: Tensor | dict[str, Tensor]) -> None:
        """Checks on a batch of some points that the output for a point is the same whatever else is in its batch.

        Raises:
            InvalidExport: It is not: such a program has no loss of single points.
        """
        parts = x if isinstance(x, dict) else {self._inputs[0]: x}
        count = next(iter(parts.values())).shape[0]
        with torch.no_grad():
            together = self(**parts)
            alone = torch.cat([self(**{k: v[i : i + 1] for k, v in parts.items()}) for i in range(count)])
        close = together.shape == alone.shape and torch.allclose(together, alone, rtol=_SAME, atol=_SAME)
        if not close:
            raise InvalidExport(
                "The program mixes the points of a batch.",
                given=f"{count} points together and one by one give different outputs",
                hint="Batch norm in training mode does so, or a mean over the first side.",
            )

    def _place(self, name: str, tensor: Tensor) -> None:
        """Registers a tensor under its dotted name."""
        owner: nn.Module = self
        *path, last = name.split(".")
        try:
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            if isinstance(tensor, nn.Parameter):
                owner.register_parameter(last, tensor)
            else:
                owner.register_buffer(last, tensor)
        except KeyError as error:
            raise InvalidExport(
                "A tensor has a name that no module can have.", given=f"{name}: {error}"[:200]
            ) from None
        self._places[name] = (owner, last)

    def _forget(self) -> None:
        """Notes with each step which values nobody needs after it."""
        needed = {self._output}
        for step in reversed(self._steps):
            mine = {*step.uses, *step.outputs}
            step.last_use = tuple(mine - needed)
            needed |= mine


@dataclass
class _Now:
    """One call: what has been made so far, and what the program's own dtype and device stand for."""

    values: dict[str, Any]
    dtype: torch.dtype
    device: torch.device


class _Same:
    """The dtype of the parameters at the time of the call."""


@dataclass
class _Step:
    """An operator with its arguments."""

    function: Callable[..., Any]
    positional: tuple[Any, ...]
    named: dict[str, Any]
    uses: tuple[str, ...]
    outputs: tuple[str, ...]
    unpack: bool
    last_use: tuple[str, ...] = ()

    @classmethod
    def of(cls, node: Node, dtype: str) -> _Step:
        return cls(
            _function(node.operator),
            tuple(_prepared(argument, dtype) for argument in node.positional),
            {name: _prepared(argument, dtype) for name, argument in node.named.items()},
            tuple(node.uses),
            node.outputs,
            node.unpack,
        )

    def run(self, now: _Now) -> None:
        arguments = [_resolved(argument, now) for argument in self.positional]
        made = self.function(*arguments, **{name: _resolved(each, now) for name, each in self.named.items()})
        if self.unpack:
            if len(made) != len(self.outputs):
                raise ValueError(f"{self.function} made {len(made)} results, the program names {len(self.outputs)}")
            now.values.update(zip(self.outputs, made, strict=True))
        elif self.outputs:
            now.values[self.outputs[0]] = made
        for name in self.last_use:
            now.values.pop(name, None)


def _function(name: str) -> Callable[..., Any]:
    """The function of an operator; its name is on the list, or the program would not have been read."""
    if name.startswith(_SYMBOLIC):
        found: Callable[..., Any] = getattr(operator, name.removeprefix(_SYMBOLIC))
        return found
    _, _, _, packet, overload = name.split(".")
    try:
        aten: Callable[..., Any] = getattr(getattr(torch.ops.aten, packet), overload)
    except AttributeError:
        raise InvalidExport(
            "The worker's torch has no such operator.", given=name, allowed=f"those of torch {torch.__version__}"
        ) from None
    return aten


def _prepared(argument: Any, dtype: str) -> Any:
    """The argument with what can be looked up before a call."""
    if isinstance(argument, list):
        return [_prepared(item, dtype) for item in argument]
    if isinstance(argument, Dtype):
        return _Same() if argument.name == dtype else getattr(torch, argument.name)
    if isinstance(argument, MemoryFormat):
        return getattr(torch, argument.name)
    return torch.strided if isinstance(argument, Layout) else argument


def _resolved(argument: Any, now: _Now) -> Any:
    match argument:
        case Value():
            return now.values[argument.name]
        case list():
            return [_resolved(item, now) for item in argument]
        case _Same():
            return now.dtype
        case Device():
            return now.device
    return argument


def _read_tensor(archive: Archive, weight: StoredWeight) -> Tensor:
    """The tensor out of raw bytes; that they suffice was checked when the program was read."""
    content = archive.read(weight.entry)
    dtype = getattr(torch, weight.dtype)
    if not content:
        return torch.zeros(weight.shape, dtype=dtype)
    flat = torch.frombuffer(content, dtype=torch.uint8)
    flat = flat[: len(content) - len(content) % dtype.itemsize].view(dtype)
    return flat.as_strided(weight.shape, weight.strides, weight.offset).contiguous()
