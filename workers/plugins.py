"""Operators' plug-ins: packages with an entry point, imported in the worker child and nowhere else."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from ihvp.errors import IhvpError

__all__ = ["PluginGroup"]


@dataclass(frozen=True)
class PluginGroup:
    """Plug-ins of one kind.

    Attributes:
        name: The group of their entry points.
        contract: What each has to offer: a ``config``, a pydantic model, and what the protocol says beside.
        noun: What one is called.
        unknown: Raised where there is none of a name that can be used.
        invalid: Raised where a config is none of its.
    """

    name: str
    contract: type[Any]
    noun: str
    unknown: type[IhvpError]
    invalid: type[IhvpError]

    def load(self, kind: str, offered: Sequence[str]) -> Any:
        """Imports the plug-in of this name.

        Args:
            kind: The entry point's name.
            offered: What may be named here, for the message.

        Raises:
            IhvpError: ``unknown``: none is installed here, or it cannot be imported, or it is no plug-in.
        """
        found = tuple(importlib.metadata.entry_points(group=self.name, name=kind))
        if not found:
            raise self.unknown(
                f"No {self.noun} of this type is installed in the worker.",
                given=kind[:200],
                allowed=", ".join(offered),
                hint=f"Install the package with this entry point in {self.name!r} and restart the worker.",
            )
        try:
            plugin = found[0].load()
        except Exception as error:  # an operator's module may raise anything when imported
            raise self.unknown(
                f"The plug-in {found[0].value!r} cannot be imported: {type(error).__name__}: {error}",
                given=kind[:200],
                hint="The worker's log has the traceback.",
            ) from error
        config = getattr(plugin, "config", None)
        sound = isinstance(plugin, self.contract) and isinstance(config, type) and issubclass(config, BaseModel)
        if not sound:
            raise self.unknown(
                f"The plug-in {found[0].value!r} has no pydantic model 'config' and no function 'build(config)'.",
                given=kind[:200],
                allowed=f"what {self.contract.__module__}.{self.contract.__name__} describes",
            )
        return plugin

    def build(self, kind: str, plugin: Any, config: dict[str, Any]) -> Any:
        """What a plug-in makes of a config that it accepts.

        Raises:
            IhvpError: ``invalid``: the config is refused, or building fails on it.
        """
        try:
            checked = plugin.config.model_validate(config)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, f['loc'])) or 'config'}: {f['msg']}" for f in error.errors()[:5])
            raise self.invalid(
                f"The config does not describe a {kind!r}: {faults}.", allowed=", ".join(plugin.config.model_fields)
            ) from None
        try:
            return plugin.build(checked)
        except Exception as error:  # the plug-in's own code
            raise self.invalid(
                f"The plug-in {kind!r} cannot build this config: {type(error).__name__}: {error}"
            ) from error
