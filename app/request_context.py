"""Every request has an id: taken from the caller or made here, sent back, and on every log line."""

from __future__ import annotations

import re
import secrets
import time
from typing import TYPE_CHECKING, Final

import structlog
from starlette.datastructures import Headers

from app.errors import problem_response
from app.request_id import PROBLEM, REQUEST_ID
from ihvp.errors import IhvpError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from app.metrics import Metrics

__all__ = ["RequestContext"]

SANE_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class RequestContext:
    """ASGI middleware: request id, access log, request metrics, and the last resort for faults of our own.

    Args:
        app: What it wraps.
        metrics: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self.log = structlog.get_logger("app.access").bind()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if SANE_ID.fullmatch(given) else secrets.token_hex(8)
        reset, reset_problem = REQUEST_ID.set(request_id), PROBLEM.set(None)
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            try:
                await self.app(scope, receive, send_with_id)
            except Exception:
                self.log.exception("internal error", request_id=request_id, path=scope["path"])
                if status:
                    raise  # the answer is on its way already; closing the connection tells that it is cut off
                await _internal_error()(scope, receive, send_with_id)
        finally:
            took = time.perf_counter() - started
            problem = PROBLEM.get()
            self.metrics.count_request(scope["method"], _route(scope), status, took, problem)
            refused = {} if problem is None else {"code": problem}
            self.log.info(
                "request",
                **refused,
                request_id=request_id,
                method=scope["method"],
                path=scope["path"],
                status=status,
                ms=round(took * 1000, 2),
            )
            REQUEST_ID.reset(reset)
            PROBLEM.reset(reset_problem)


def _internal_error() -> ASGIApp:
    return problem_response(
        IhvpError("The service failed on this request.", hint="The log has the cause under the request id.")
    )


def _route(scope: Scope) -> str:
    # The template, not the path: a label per job id would grow without bound.
    path = getattr(scope.get("route"), "path_format", None)
    return path if isinstance(path, str) else "unmatched"
