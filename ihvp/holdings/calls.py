"""Every operation on what tenants hold as a call to the server; the meaning is in the Lua files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ihvp.holdings.store import no_room
from ihvp.keyvalue.calls import Call
from ihvp.tenants import DEFAULT_TENANT

__all__ = ["HoldingCalls"]


@dataclass(frozen=True)
class HoldingCalls:
    """Builds the calls."""

    tenant: str = DEFAULT_TENANT

    def add(self, digest: str, size: int, most: int | None) -> Call[bool]:
        """``Holdings.add``."""

        def parse(answer: Any) -> bool:
            first, total = answer
            if first < 0:
                raise no_room(size, int(total), most or 0)
            return bool(first)

        return Call("add", (self.tenant, digest, size, most or 0), parse)

    def held(self, digests: Collection[str]) -> Call[set[str]]:
        """``Holdings.held``."""
        return Call("held", (self.tenant, *digests), set)

    def total(self) -> Call[int]:
        """``Holdings.total``."""
        return Call("total", (self.tenant,), int)

    def forget(self, digests: Collection[str]) -> Call[None]:
        """``Holdings.forget``."""
        return Call("forget", tuple(digests), lambda _: None)
