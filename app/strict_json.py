"""Request bodies are JSON as RFC 8259 has it, not nested deeply, and no key in an object twice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.errors import refusal
from ihvp.errors import IhvpError, MalformedBody, NonFiniteRhs

__all__ = ["StrictJsonRoute"]


DEEPEST: Final = 32
"""Levels of a body. A submission has five; what is nested as deep as Python allows breaks where it is shown."""

_TEXT: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")


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
                self._json = json.loads(body, parse_constant=_refuse, object_pairs_hook=_object)
            except _NotJsonError as fault:
                raise _refusal(body, fault.literal) from None
            except RecursionError:
                too_deep = True
            else:
                too_deep = _deeper_than(body, DEEPEST)
            if too_deep:
                raise _too_deep()
        return self._json


class StrictJsonRoute(APIRoute):
    """A route whose body is strict JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, given a request that parses strictly."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise refusal(
            MalformedBody(
                "An object of the body has a key twice.",
                given=twice[:100],
                allowed="each key once",
                hint="Which of the two is meant cannot be known.",
            )
        )
    return found


def _deeper_than(body: bytes, levels: int) -> bool:
    """Whether JSON that was parsed already has more levels of brackets; costs a few passes over the body."""
    if body.count(b"[") + body.count(b"{") <= levels:
        return False
    brackets = _TEXT.sub(b"", body).translate(None, _NO_BRACKETS)
    for _ in range(levels):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if not brackets:
            return False
    return True


def _too_deep() -> HTTPException:
    return refusal(
        MalformedBody(
            "The body is nested too deep.",
            given=f"more than {DEEPEST} levels",
            allowed=f"{DEEPEST} levels of [ and {{",
        )
    )


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
