"""A package for an operator's own architecture, to start from."""

from ihvp.plugins.scaffold import new_plugin

__all__ = ["new_plugin"]
