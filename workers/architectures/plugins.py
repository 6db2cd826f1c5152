"""Architectures that an operator adds: found by entry point, loaded in the worker child only."""

from __future__ import annotations

from typing import Any, Final, Protocol, runtime_checkable

from pydantic import BaseModel
from torch import nn

from ihvp.errors import InvalidArchitecture, UnknownArchitecture
from ihvp.models.architectures import BUILT_IN, ENTRY_POINT_GROUP, architecture_names
from workers.plugins import PluginGroup

__all__ = ["ArchitecturePlugin", "build_plugin", "load_plugin"]


@runtime_checkable
class ArchitecturePlugin(Protocol):
    """What an entry point in the group ``ihvp.architectures`` has to offer: a module, a class or an object.

    The entry point's name is the ``type`` under which callers name the architecture::

        [project.entry-points."ihvp.architectures"]
        "two-towers" = "our_models.two_towers"

    Attributes:
        config: The pydantic model that a caller's ``config`` is checked against. Forbid extra fields
            (``extra="forbid"``), or a misspelt field is ignored in silence.
        build: Makes the module from a checked config. It may run on any thread, is called with no
            particular seed (the weights are loaded over the module's), and must not read the network.
    """

    config: type[BaseModel]

    def build(self, config: Any, /) -> nn.Module:
        """The module, its parameters in the order that b and x have."""


_GROUP: Final = PluginGroup(
    ENTRY_POINT_GROUP, ArchitecturePlugin, "architecture", UnknownArchitecture, InvalidArchitecture
)


def load_plugin(kind: str) -> ArchitecturePlugin:
    """Imports the plug-in of this name.

    Raises:
        UnknownArchitecture: None is installed here, or it cannot be imported, or it is no plug-in.
    """
    plugin: ArchitecturePlugin = _GROUP.load(kind, architecture_names())
    return plugin


def build_plugin(kind: str, config: dict[str, Any]) -> nn.Module:
    """The module of a plug-in.

    Raises:
        UnknownArchitecture: No such plug-in can be loaded.
        InvalidArchitecture: Its config refuses these values, or building fails on them.
    """
    if kind in BUILT_IN:
        raise ValueError(f"{kind!r} is built in")
    module = _GROUP.build(kind, load_plugin(kind), config)
    if not isinstance(module, nn.Module):
        raise InvalidArchitecture(f"The plug-in {kind!r} built a {type(module).__name__}, not a torch.nn.Module.")
    return module
