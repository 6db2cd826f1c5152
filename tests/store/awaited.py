"""An awaiting store with blocking methods, so that one suite runs over both kinds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Awaited:
    """Runs each method of a store to its end in a loop of its own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._runner = asyncio.Runner()
        self._store = make()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)
        return lambda *args, **kwargs: self._runner.run(method(*args, **kwargs))

    def of(self, *tenant: Any) -> Awaited:
        """One tenant's view, in the same loop; closing it is closing the store."""
        view = Awaited.__new__(Awaited)
        view._runner, view._store = self._runner, self._store.of(*tenant)
        return view

    def close(self) -> None:
        self._runner.run(self._store.close())
        self._runner.close()
