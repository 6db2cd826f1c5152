"""Nothing is read or done for a caller before it is known who it is, that it may, and that it is not too often."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from app.body_limit import drain
from app.errors import problem_response
from app.scopes import Needs
from ihvp.errors import Forbidden, IhvpError, RateLimited, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi.routing import APIRoute
    from starlette.types import ASGIApp, Message, Receive, Send
    from starlette.types import Scope as AsgiScope

    from app.authentication import Authenticator
    from app.limits import RequestLimits

__all__ = ["Guard"]


class Guard:
    """ASGI middleware: 401, 403 and 429, before any of the body is read; notes the request's tenant.

    Args:
        app: What it wraps.
        routes: Those that need something, the busiest first.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute]) -> None:
        self.app = app
        self.needs = Needs(routes)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with ExitStack() as held:
            try:
                told = await self._admit(scope, held)
            except IhvpError as error:
                await self._refuse(error, scope, receive, send)
                return
            await self.app(scope, receive, _telling(send, told) if told else send)

    async def _refuse(self, error: IhvpError, scope: AsgiScope, receive: Receive, send: Send) -> None:
        limits: RequestLimits = scope["app"].state.limits
        headers = await limits.headers(scope["tenant"]) if isinstance(error, RateLimited) else {}
        if isinstance(error, Unauthenticated):
            headers["WWW-Authenticate"] = 'Bearer realm="ihvp"'
        if Headers(scope=scope).get("expect", "").lower() != "100-continue":
            await drain(receive)
        await problem_response(error, headers=headers)(scope, receive, send)

    async def _admit(self, scope: AsgiScope, held: ExitStack) -> dict[str, str]:
        """Lets a request in, and gives the headers that tell of its tenant's limit."""
        needed = self.needs.of(scope["method"], scope["path"])
        if needed is None:
            return {}
        authenticator: Authenticator = scope["app"].state.authenticator
        caller = await authenticator.caller(_authorization(scope))
        scope["tenant"], scope["key_id"] = caller.tenant, caller.key_id
        if not caller.scope.allows(needed):
            raise Forbidden(
                "The API key does not allow this.",
                given=f"a key of scope {caller.scope.value}",
                allowed=f"scope {needed.value}",
                hint="Scopes are read, submit, admin; each allows what those before it do.",
            )
        limits: RequestLimits = scope["app"].state.limits
        told = await limits.take(caller.tenant)
        if _is_held(scope):
            held.enter_context(limits.holding(caller.tenant))
        return told


def _authorization(scope: AsgiScope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            return str(value, "latin-1")
    return None


def _is_held(scope: AsgiScope) -> bool:
    """Whether the answer may wait for a job."""
    if scope["method"] == "GET":
        return scope["path"].endswith("/events") or b"wait=" in scope["query_string"]
    return scope["method"] == "POST" and "wait" in Headers(scope=scope).get("prefer", "")


def _telling(send: Send, told: Mapping[str, str]) -> Send:
    """Adds headers to the answer."""
    further = [(name.lower().encode(), value.encode()) for name, value in told.items()]

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *further]
        await send(message)

    return send_with_headers
