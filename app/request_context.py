"""Every request has an id: taken from the caller or made here, sent back, and on every log line."""

from __future__ import annotations

import random
import re
import time
from typing import TYPE_CHECKING, Final

import structlog

from app.errors import problem_response
from app.request_id import JOB, PROBLEM, REQUEST_ID
from app.tracing import name_span, note_fault
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
        traced: Whether requests make spans.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, *, traced: bool) -> None:
        self.app = app
        self.traced = traced
        self.metrics = metrics
        self.log = structlog.get_logger("app.access").bind()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _given_id(scope) or f"{random.getrandbits(64):016x}"
        resets = [(REQUEST_ID, REQUEST_ID.set(request_id)), (PROBLEM, PROBLEM.set(None)), (JOB, JOB.set(None))]
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.traced:
                    # Not later: the span ends with the last byte of the answer.
                    name_span(scope["method"], _route(scope), {**_about(scope), "request_id": request_id})
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            try:
                await self.app(scope, receive, send_with_id)
            except Exception as error:
                note_fault(error)
                self.log.exception("internal error", request_id=request_id, path=scope["path"])
                if status:
                    raise  # the answer is on its way already; closing the connection tells that it is cut off
                await _internal_error()(scope, receive, send_with_id)
        finally:
            took = time.perf_counter() - started
            problem = PROBLEM.get()
            self.metrics.count_request(scope["method"], _route(scope), status, took, problem)
            self.log.info(
                "request",
                **_about(scope),
                request_id=request_id,
                method=scope["method"],
                path=scope["path"],
                status=status,
                ms=round(took * 1000, 2),
            )
            for variable, reset in resets:
                variable.reset(reset)


def _given_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = str(value, "latin-1")
            return given if SANE_ID.fullmatch(given) else None
    return None


def _about(scope: Scope) -> dict[str, str]:
    """Whose the request was and what it was about, and the code of the error that it was answered with."""
    known = {
        "code": PROBLEM.get(),
        "job_id": JOB.get() or scope.get("path_params", {}).get("job_id"),
        "tenant": scope.get("tenant") if scope.get("key_id") else None,
        "key": scope.get("key_id"),
    }
    return {name: value for name, value in known.items() if value is not None}


def _internal_error() -> ASGIApp:
    return problem_response(
        IhvpError("The service failed on this request.", hint="The log has the cause under the request id.")
    )


def _route(scope: Scope) -> str:
    # The template, not the path: a label per job id would grow without bound.
    path = getattr(scope.get("route"), "path_format", None)
    return path if isinstance(path, str) else "unmatched"
