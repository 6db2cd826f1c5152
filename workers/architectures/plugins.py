"""Architectures that an operator adds: found by entry point, loaded in the worker child only."""

from __future__ import annotations

import importlib.metadata
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ValidationError
from torch import nn

from ihvp.errors import InvalidArchitecture, UnknownArchitecture
from ihvp.models.architectures import BUILT_IN, ENTRY_POINT_GROUP, architecture_names

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


def load_plugin(kind: str) -> ArchitecturePlugin:
    """Imports the plug-in of this name.

    Raises:
        UnknownArchitecture: None is installed here, or it cannot be imported, or it is no plug-in.
    """
    found = tuple(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name=kind))
    if not found:
        raise UnknownArchitecture(
            "No architecture of this type is installed in the worker.",
            given=kind[:200],
            allowed=", ".join(architecture_names()),
            hint=f"Install the package with this entry point in {ENTRY_POINT_GROUP!r} and restart the worker.",
        )
    try:
        plugin = found[0].load()
    except Exception as error:  # an operator's module may raise anything when imported
        raise UnknownArchitecture(
            f"The plug-in {found[0].value!r} cannot be imported: {type(error).__name__}: {error}",
            given=kind[:200],
            hint="The worker's log has the traceback.",
        ) from error
    config = getattr(plugin, "config", None)
    if not (isinstance(plugin, ArchitecturePlugin) and isinstance(config, type) and issubclass(config, BaseModel)):
        raise UnknownArchitecture(
            f"The plug-in {found[0].value!r} has no pydantic model 'config' and no function 'build(config)'.",
            given=kind[:200],
            allowed=f"what workers.architectures.plugins.{ArchitecturePlugin.__name__} describes",
        )
    return plugin


def build_plugin(kind: str, config: dict[str, Any]) -> nn.Module:
    """The module of a plug-in.

    Raises:
        UnknownArchitecture: No such plug-in can be loaded.
        InvalidArchitecture: Its config refuses these values, or building fails on them.
    """
    if kind in BUILT_IN:
        raise ValueError(f"{kind!r} is built in")
    plugin = load_plugin(kind)
    try:
        checked = plugin.config.model_validate(config)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc'])) or 'config'}: {f['msg']}" for f in error.errors()[:5])
        raise InvalidArchitecture(
            f"The config does not describe a {kind!r}: {faults}.", allowed=", ".join(plugin.config.model_fields)
        ) from None
    try:
        module = plugin.build(checked)
    except Exception as error:  # the plug-in's own code
        raise InvalidArchitecture(
            f"The plug-in {kind!r} cannot build this config: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise InvalidArchitecture(f"The plug-in {kind!r} built a {type(module).__name__}, not a torch.nn.Module.")
    return module
