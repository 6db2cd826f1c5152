"""An exported program as plain data: its parameters, and the operators that lead from inputs to output."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final

from ihvp.errors import InvalidExport
from ihvp.exports.archive import Archive
from ihvp.exports.arguments import DTYPES
from ihvp.exports.nodes import Node, read_nodes
from ihvp.tensors import FLOATS, ITEM_SIZE

__all__ = ["ExportProgram", "Node", "StoredWeight", "read_program"]

SCHEMA_MAJOR: Final = 8
MOST_SIDES: Final = 32
_NAME: Final = re.compile(r"(?!__)[A-Za-z0-9_]{1,200}(\.(?!__)[A-Za-z0-9_]{1,200}){0,31}")

RIGHT_EXPORT: Final = (
    'torch.export.export(model.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)) '
    "with an x of two points or more, and one {0: …} for each input"
)


@dataclass(frozen=True)
class StoredWeight:
    """A tensor of the archive.

    Attributes:
        name: As the module calls it; of a constant, as the program does.
        entry: Where its bytes lie.
        dtype: ``float32``, ``int64``, …
        shape: Its sides.
        strides: In elements.
        offset: Of its first element among those of the entry.
    """

    name: str
    entry: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class ExportProgram:
    """What an archive holds.

    Attributes:
        parameters: In the order of the module's ``named_parameters()``, each once.
        buffers: Those that are stored.
        constants: Tensors of the program that are neither.
        leaves: For each value that is a stored tensor, what it is called above.
        inputs: Names of the inputs, in their order.
        nodes: In the order in which they are computed.
        output: The value that is returned.
    """

    parameters: list[StoredWeight]
    buffers: list[StoredWeight]
    constants: list[StoredWeight]
    leaves: dict[str, str]
    inputs: list[str]
    nodes: list[Node]
    output: str

    @property
    def dtype(self) -> str:
        """That of the parameters."""
        return self.parameters[0].dtype


def read_program(archive: Archive) -> ExportProgram:
    """Reads and checks a program; its weights are left where they are.

    Raises:
        InvalidExport: Something in it is not known to be harmless, or not good for products with H.
    """
    try:
        return _read(archive)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
        if isinstance(error, InvalidExport):
            raise
        raise InvalidExport(
            "The program is not written as torch.export does.",
            given=f"{type(error).__name__}: {error}"[:200],
            hint="Save it anew with torch.export.save of torch 2.13.",
        ) from None


def _read(archive: Archive) -> ExportProgram:
    document = archive.json("models/model.json")
    version = document["schema_version"]["major"]
    if version != SCHEMA_MAJOR:
        raise InvalidExport("This version of the format is not known.", given=version, allowed=SCHEMA_MAJOR)
    module = document["graph_module"]
    graph, signature = module["graph"], module["signature"]
    weights = _stored(archive, "weights", "model_weights_config.json")
    constants = _stored(archive, "constants", "model_constants_config.json")

    leaves: dict[str, str] = {}
    inputs: list[str] = []
    used: dict[str, StoredWeight] = {}
    for spec in signature["input_specs"]:
        ((kind, content),) = spec.items()
        if kind == "user_input":
            inputs.append(_input_name(content["arg"]))
        elif kind in ("parameter", "buffer", "tensor_constant"):
            leaves[content["arg"]["name"]] = name = content[f"{kind}_name"]
            if kind == "tensor_constant" or not content.get("persistent", True):
                used[name] = constants[name][0]
        elif kind != "constant_input":
            raise InvalidExport("The program takes an input that is no tensor.", given=kind)
    output = _output(signature["output_specs"])
    _check_batch(graph, inputs, output, document.get("range_constraints", {}))

    parameters, first = _once([w for w, is_parameter in weights.values() if is_parameter])
    buffers = [w for w, is_parameter in weights.values() if not is_parameter]
    leaves = {value: first.get(name, name) for value, name in leaves.items()}
    if not parameters:
        raise InvalidExport("The program has no parameters.")
    kinds = {w.dtype for w in parameters}
    if len(kinds) > 1 or not kinds <= set(FLOATS):
        raise InvalidExport("All parameters have one floating-point dtype.", given=", ".join(sorted(kinds)))
    known = {w.name for w in [*parameters, *buffers]} | set(used)
    lost = [name for name in leaves.values() if name not in known]
    if lost:
        raise InvalidExport("The program refers to tensors that the archive lacks.", given=", ".join(lost[:5]))
    nodes = read_nodes(graph["nodes"], inputs=[*leaves, *inputs], output=output)
    return ExportProgram(parameters, buffers, list(used.values()), leaves, inputs, nodes, output)


def _once(parameters: list[StoredWeight]) -> tuple[list[StoredWeight], dict[str, str]]:
    """Tied parameters under the first of their names, as in ``named_parameters()``; and that name for each name."""
    by_entry: dict[str, StoredWeight] = {}
    for weight in parameters:
        by_entry.setdefault(weight.entry, weight)
    return list(by_entry.values()), {weight.name: by_entry[weight.entry].name for weight in parameters}


def _stored(archive: Archive, kind: str, config: str) -> dict[str, tuple[StoredWeight, bool]]:
    """The tensors of one folder by name, and whether each is a parameter."""
    found: dict[str, tuple[StoredWeight, bool]] = {}
    for name, entry in archive.json(f"data/{kind}/{config}")["config"].items():
        # Anything but a plain False: torch would unpickle it.
        if entry["use_pickle"] is not False:
            raise InvalidExport(
                "A tensor of the archive is pickled.",
                given=f"{kind}/{name}"[:200],
                hint="Tensor subclasses are saved so; export a module of plain tensors.",
            )
        if not _NAME.fullmatch(name):
            raise InvalidExport("A tensor has a name that no module has.", given=name[:200])
        found[name] = (
            _weight(archive, name, f"data/{kind}/{entry['path_name']}", entry["tensor_meta"]),
            entry["is_param"] is True,
        )
    return found


def _weight(archive: Archive, name: str, entry: str, meta: dict[str, Any]) -> StoredWeight:
    shape, strides = (tuple(_whole(side) for side in meta[sides]) for sides in ("sizes", "strides"))
    offset, dtype = _whole(meta["storage_offset"]), DTYPES.get(meta["dtype"])
    if dtype is None or meta["layout"] != 7:
        raise InvalidExport(
            "A tensor's dtype or layout is not read here.", given=name, allowed=", ".join(DTYPES.values())
        )
    if len(shape) > MOST_SIDES or len(strides) != len(shape) or min((*shape, *strides, offset), default=0) < 0:
        raise InvalidExport("A tensor's shape is none.", given=f"{name}: {list(shape)[:MOST_SIDES]}")
    item, size = ITEM_SIZE[dtype], archive.size(entry)
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    count = math.prod([*shape])
    if count * item > size or (count and (last + 1) * item > size):
        raise InvalidExport(
            "A tensor claims more numbers than it has.", given=f"{name}: {list(shape)} in {size} bytes"
        )
    return StoredWeight(name, entry, dtype, shape, strides, offset)


def _whole(side: dict[str, Any]) -> int:
    number = side["as_int"]
    if type(number) is not int:
        raise TypeError(f"{number!r} is no size")
    return number


def _input_name(argument: dict[str, Any]) -> str:
    if set(argument) != {"as_tensor"}:
        raise InvalidExport("Inputs of a program are tensors.", given=", ".join(argument)[:200])
    return str(argument["as_tensor"]["name"])


def _output(specs: list[dict[str, Any]]) -> str:
    kinds = [kind for spec in specs for kind in spec]
    changed = [kind for kind in kinds if kind != "user_output"]
    if changed:
        raise InvalidExport(
            "The program changes its own buffers or inputs.",
            given=", ".join(sorted(set(changed)))[:200],
            hint="Export the module in evaluation mode: model.eval().",
        )
    if len(specs) != 1 or set(specs[0]["user_output"]["arg"]) != {"as_tensor"}:
        raise InvalidExport("A program returns one tensor.", given=f"{len(specs)} outputs")
    return str(specs[0]["user_output"]["arg"]["as_tensor"]["name"])


def _check_batch(graph: dict[str, Any], inputs: list[str], output: str, ranges: dict[str, Any]) -> None:
    """Any number of points may go through at a time: the first side of inputs and output is one free symbol."""
    if not inputs:
        raise InvalidExport("The program takes no input.")
    symbols: set[str] = set()
    for name in [*inputs, output]:
        sides = graph["tensor_values"][name]["sizes"]
        if not sides or "as_expr" not in sides[0]:
            first = sides[0].get("as_int") if sides else "no side"
            what = "output" if name == output else f"input {name!r}"
            raise InvalidExport(
                f"The program is good for one number of points only: the first side of its {what} is fixed.",
                given=first,
                hint=f"Export it with {RIGHT_EXPORT}.",
            )
        symbols.add(str(sides[0]["as_expr"]["expr_str"]))
    if len(symbols) != 1:
        raise InvalidExport(
            "The first side of all inputs and of the output is the number of points.",
            given="; ".join(sorted(symbols))[:200],
            hint=f"Export it with {RIGHT_EXPORT}.",
        )
    named = re.search(r"Symbol\('(\w+)'|^(\w+)$", symbols.pop())
    bounds = ranges.get(named[1] or named[2], {}) if named else {}
    if (bounds.get("min_val") or 0) > 1 or bounds.get("max_val") is not None:
        raise InvalidExport(
            "The program bounds the number of points.",
            given=str(bounds)[:200],
            hint="Leave out min and max of the Dim.",
        )
