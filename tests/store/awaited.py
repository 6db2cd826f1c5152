"""Every adapter of a store for one suite: an awaiting one gets blocking methods."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

ADAPTERS = ["memory", "redis", "redis-async"]


def adapter(request: pytest.FixtureRequest, memory: Callable[[], Any], blocking: Any, awaiting: Any) -> Iterator[Any]:
    """The store of a fixture over ``ADAPTERS``: in memory, or one of the two on a server, closed at the end."""
    if request.param == "memory":
        yield memory()
        return
    settings = request.getfixturevalue("valkey")
    made: Any = (
        blocking.from_settings(settings)
        if request.param == "redis"
        else Awaited(lambda: awaiting.from_settings(settings))
    )
    yield made
    made.close()


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
