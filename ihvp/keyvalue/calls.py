"""A call to the server as a value: what to send and how to read the answer, with no I/O in it.

Each operation of a store is built once, as a ``Call``; a blocking and an awaiting executor carry it out. So the
semantics stand in one place, and the two kinds of adapter cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any, Final, Generic, TypeVar

__all__ = ["MICROSECOND", "Call", "Scripts", "from_microseconds", "hash_fields", "microseconds", "to_microseconds"]

T_co = TypeVar("T_co", covariant=True)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
# What the scripts of two stores both need stands in one of them, under lua/shared.
INCLUDE: Final = re.compile(r"^-- include ([\w.]+)/(\w+)$", re.MULTILINE)


@dataclass(frozen=True)
class Call(Generic[T_co]):
    """One round trip.

    Attributes:
        name: A Lua script of the store's package without its ``.lua``, or a server's command in capitals.
        args: ``ARGV`` of the script, or the command's arguments.
        parse: Turns the answer into the operation's value, or raises the operation's error.
    """

    name: str
    args: tuple[str | int, ...]
    parse: Callable[[Any], T_co]

    @property
    def is_script(self) -> bool:
        """Whether ``name`` is a script; commands are written in capitals."""
        return not self.name.isupper()


class Scripts:
    """The Lua files beside a store's Python, each behind what all stores share and its package's ``prelude*.lua``.

    Args:
        package: The package whose folder ``lua`` holds the files.
    """

    def __init__(self, package: str) -> None:
        self._folder = files(package) / "lua"
        self._preludes = [name for name in self._all() if name.startswith("prelude")]
        shared = (files("ihvp.keyvalue") / "lua" / "tenants.lua").read_text(encoding="utf-8")
        self._prelude = INCLUDE.sub(_shared, "\n".join([shared, *map(self._read, self._preludes)]))

    def source(self, name: str) -> str:
        """The text of a script as the server gets it."""
        return f"{self._prelude}\n{self._read(name)}"

    def names(self) -> list[str]:
        """All scripts."""
        return [name for name in self._all() if name not in self._preludes]

    def _all(self) -> list[str]:
        return sorted(file.name.removesuffix(".lua") for file in self._folder.iterdir() if file.name.endswith(".lua"))

    def _read(self, name: str) -> str:
        return (self._folder / f"{name}.lua").read_text(encoding="utf-8")


def _shared(include: re.Match[str]) -> str:
    return (files(include[1]) / "lua" / "shared" / f"{include[2]}.lua").read_text(encoding="utf-8")


def to_microseconds(moment: datetime) -> int:
    """Microseconds since 1970, the unit of every time in the store: whole numbers, exact in Lua's doubles."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - EPOCH) // MICROSECOND


def microseconds(seconds: float) -> int:
    """A stretch of time in the unit of the store."""
    return round(seconds * 1_000_000)


def from_microseconds(stamp: int) -> datetime:
    """The inverse of ``to_microseconds``, in UTC."""
    return EPOCH + timedelta(microseconds=stamp)


def hash_fields(flat: list[str]) -> dict[str, str]:
    """A hash as Lua returns it (field, value, field, …) as a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
