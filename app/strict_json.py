"""Request bodies are JSON as RFC 8259 has it: Python's NaN and Infinity are not."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from ihvp.errors import IhvpError, MalformedBody, NonFiniteRhs

__all__ = ["StrictJsonRoute"]


class _NotJsonError(Exception):
    """A literal that only Python takes for JSON."""

    def __init__(self, literal: str) -> None:
        super().__init__(literal)
        self.literal = literal


class _StrictRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            try:
                self._json = json.loads(body, parse_constant=_refuse)
            except _NotJsonError as fault:
                raise _refusal(body, fault.literal) from None
        return self._json


class StrictJsonRoute(APIRoute):
    """A route whose body is strict JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, given a request that parses strictly."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


def _refuse(literal: str) -> NoReturn:
    raise _NotJsonError(literal)


def _refusal(body: bytes, literal: str) -> IhvpError:
    loose = json.loads(body)
    rhs = loose.get("rhs") if isinstance(loose, dict) else None
    rows = rhs.get("inline") if isinstance(rhs, dict) else None
    # The commonest way here is a vector with a NaN in it, and that has an error of its own.
    if isinstance(rows, list) and _holds_non_finite(rows):
        return NonFiniteRhs(
            "The right-hand side holds a number that is not finite.",
            given=literal,
            allowed="finite numbers",
            hint="Look for an overflow or a division by zero where b is made.",
        )
    return MalformedBody(
        f"{literal} is not JSON.",
        given=literal,
        allowed="finite numbers, or null where a field may be left out",
    )


def _holds_non_finite(rows: list[Any]) -> bool:
    flat = (number for row in rows for number in (row if isinstance(row, list) else [row]))
    return any(isinstance(number, float) and number - number != 0.0 for number in flat)
