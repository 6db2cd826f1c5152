"""Arguments of the operators of an exported program, out of their JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from ihvp.errors import InvalidExport

__all__ = ["DTYPES", "Device", "Dtype", "Layout", "MemoryFormat", "Value", "argument_of", "names_in"]

# torch's numbers for what can stand in a program here.
DTYPES: Final = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64", 12: "bool",
    13: "bfloat16",
}  # fmt: skip
MEMORY_FORMATS: Final = {
    1: "contiguous_format", 2: "channels_last", 3: "channels_last_3d", 4: "preserve_format",
}  # fmt: skip
STRIDED: Final = 7
FLOAT_WORDS: Final = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


@dataclass(frozen=True)
class Value:
    """What a node has made, or what came in, by its name."""

    name: str


@dataclass(frozen=True)
class Dtype:
    """A dtype by its name."""

    name: str


@dataclass(frozen=True)
class MemoryFormat:
    """A memory format by its name."""

    name: str


@dataclass(frozen=True)
class Layout:
    """The layout of ordinary tensors; no other one is taken."""


@dataclass(frozen=True)
class Device:
    """The device that the module is on: the one that it was exported on does not count."""


def argument_of(document: Any, where: str) -> Any:
    """The argument that a JSON union stands for: a constant, one of the classes above, or a list of them.

    Raises:
        InvalidExport: It is of a kind that no operator of the list takes.
    """
    if not isinstance(document, dict) or len(document) != 1:
        raise InvalidExport("An argument is not written as torch.export does.", given=f"{where}: {document!r}"[:200])
    ((kind, content),) = document.items()
    try:
        return _READERS[kind](content)
    except KeyError:
        raise InvalidExport(
            "An argument is of a kind that is not read here.", given=f"{where}: {kind}"[:200], hint=_GRAPHS
        ) from None
    except (TypeError, ValueError, AttributeError):
        raise InvalidExport("An argument is damaged.", given=f"{where}: {document!r}"[:200]) from None


def names_in(argument: Any) -> list[str]:
    """The values that an argument refers to."""
    if isinstance(argument, Value):
        return [argument.name]
    return [name for item in argument for name in names_in(item)] if isinstance(argument, list) else []


_GRAPHS: Final = "Control flow, custom objects and complex numbers cannot be exported to this service."


def _exactly(kind: type, content: Any) -> Any:
    if type(content) is not kind:
        raise TypeError
    return content


def _float(content: Any) -> float:
    if isinstance(content, str):
        return FLOAT_WORDS[content] if content in FLOAT_WORDS else _refuse()
    return float(content) if type(content) in (int, float) else _refuse()


def _refuse() -> Any:
    raise ValueError


def _tensor(content: Any) -> Value:
    return Value(_exactly(str, content["name"]))


def _symbol(content: Any, plain: str) -> Any:
    """A number, or the name of one that is worked out of sizes."""
    if set(content) == {"as_name"}:
        return Value(_exactly(str, content["as_name"]))
    if set(content) != {plain}:
        raise ValueError
    return _exactly(int, content[plain]) if plain == "as_int" else _float(content[plain])


def _maybe_tensor(content: Any) -> Value | None:
    if set(content) == {"as_none"}:
        return None
    return _tensor(content["as_tensor"]) if set(content) == {"as_tensor"} else _refuse()


def _layout(content: Any) -> Layout:
    return Layout() if content == STRIDED else _refuse()


def _each(read: Any) -> Any:
    return lambda content: [read(item) for item in _exactly(list, content)]


def _known(table: dict[int, str], content: Any) -> str:
    return table[content] if type(content) is int and content in table else _refuse()


_READERS: Final[dict[str, Any]] = {
    "as_none": lambda _: None,
    "as_tensor": _tensor,
    "as_tensors": _each(_tensor),
    "as_optional_tensor": _maybe_tensor,
    "as_optional_tensors": _each(_maybe_tensor),
    "as_int": lambda content: _exactly(int, content),
    "as_ints": _each(lambda item: _exactly(int, item)),
    "as_float": _float,
    "as_floats": _each(_float),
    "as_bool": lambda content: _exactly(bool, content),
    "as_bools": _each(lambda item: _exactly(bool, item)),
    "as_string": lambda content: _exactly(str, content),
    "as_sym_int": lambda content: _symbol(content, "as_int"),
    "as_sym_ints": _each(lambda item: _symbol(item, "as_int")),
    "as_scalar_type": lambda content: Dtype(_known(DTYPES, content)),
    "as_memory_format": lambda content: MemoryFormat(_known(MEMORY_FORMATS, content)),
    "as_layout": _layout,
    "as_device": lambda _: Device(),
}
