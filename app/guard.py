"""Nothing is read or done for a caller before it is known who it is, and that it may."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from app.body_limit import drain
from app.errors import problem_response
from app.scopes import needed_scope
from ihvp.errors import Forbidden, IhvpError, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi.routing import APIRoute
    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Scope as AsgiScope

    from app.authentication import Authenticator

__all__ = ["Guard"]


class Guard:
    """ASGI middleware: 401 and 403, before any of the body is read; notes the request's tenant.

    Args:
        app: What it wraps.
        routes: Those that need something, the busiest first.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute]) -> None:
        self.app = app
        self.routes = routes

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            await self._admit(scope)
        except IhvpError as error:
            headers = {"WWW-Authenticate": 'Bearer realm="ihvp"'} if isinstance(error, Unauthenticated) else None
            if Headers(scope=scope).get("expect", "").lower() != "100-continue":
                await drain(receive)
            await problem_response(error, headers=headers)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _admit(self, scope: AsgiScope) -> None:
        needed = needed_scope(self.routes, scope)
        if needed is None:
            return
        authenticator: Authenticator = scope["app"].state.authenticator
        caller = await authenticator.caller(Headers(scope=scope).get("authorization"))
        scope["tenant"], scope["key_id"] = caller.tenant, caller.key_id
        if not caller.scope.allows(needed):
            raise Forbidden(
                "The API key does not allow this.",
                given=f"a key of scope {caller.scope.value}",
                allowed=f"scope {needed.value}",
                hint="Scopes are read, submit, admin; each allows what those before it do.",
            )
