"""The one place where errors become HTTP: codes to statuses, and every fault to problem+json (RFC 9457)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app.request_id import PROBLEM, current_request_id
from ihvp import errors as e
from ihvp.errors import IhvpError

__all__ = ["PROBLEM_JSON", "STATUS", "install_error_handlers", "problem_response", "refusal", "status_of", "title_of"]

PROBLEM_JSON: Final = "application/problem+json"
ERRORS_SHOWN: Final = 20

# The most specific class decides; a subclass that is not listed has its parent's status.
STATUS: Final[dict[type[IhvpError], int]] = {
    IhvpError: 500,
    e.InvalidInput: 422,
    e.MalformedBody: 400,
    e.UnsupportedChecksum: 400,
    e.UploadStalled: 408,
    e.UnsupportedTusVersion: 412,
    e.UnsupportedMediaType: 415,
    e.UploadLocked: 423,
    e.ChecksumMismatch: 460,  # tus has given this number its meaning
    e.BodyTooLarge: 413,
    e.Unauthenticated: 401,
    e.Forbidden: 403,
    e.NotFound: 404,
    e.MethodNotAllowed: 405,
    e.NotAcceptable: 406,
    e.Conflict: 409,
    e.Gone: 410,
    e.RangeNotSatisfiable: 416,
    e.TooManyRequests: 429,
    e.Unavailable: 503,
    e.OutOfSpace: 507,
}

_BY_STATUS: Final[dict[int, type[IhvpError]]] = {
    400: e.MalformedBody,
    401: e.Unauthenticated,
    403: e.Forbidden,
    404: e.NotFound,
    405: e.MethodNotAllowed,
    406: e.NotAcceptable,
    413: e.BodyTooLarge,
    416: e.RangeNotSatisfiable,
    422: e.InvalidInput,
}


def status_of(error: type[IhvpError]) -> int:
    """The HTTP status of an error class."""
    return next(STATUS[base] for base in error.__mro__ if base in STATUS)


def title_of(error: type[IhvpError]) -> str:
    """What the code means, the same for every occurrence."""
    if error is IhvpError:
        return "The service failed"
    return (error.__doc__ or error.__name__).strip().splitlines()[0].rstrip(".")


def problem_response(
    error: IhvpError,
    *,
    errors: list[dict[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error as an RFC 9457 response."""
    status = status_of(type(error))
    PROBLEM.set(error.code)
    body: dict[str, Any] = {
        "type": f"urn:ihvp:problem:{error.code}",
        "title": title_of(type(error)),
        "status": status,
        "detail": str(error),
        **error.as_dict(),
        "errors": errors,
        "request_id": current_request_id(),
    }
    sent = dict(headers or {})
    if error.retry_after_s is not None:
        sent.setdefault("Retry-After", str(max(1, math.ceil(error.retry_after_s))))
    content = {name: _plain(value) for name, value in body.items() if value is not None}
    # A caller may send lone surrogates; they go back as the JSON escapes they came as.
    encoded = json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(encoded, status_code=status, headers=sent, media_type=PROBLEM_JSON)


def refusal(error: IhvpError, headers: dict[str, str] | None = None) -> HTTPException:
    """The error as an exception that may carry headers, and that FastAPI lets pass where it reads a body."""
    found = HTTPException(status_of(type(error)), headers=headers)
    found.__cause__ = error
    return found


def install_error_handlers(app: FastAPI) -> None:
    """Makes every error of the application a problem response."""
    app.add_exception_handler(IhvpError, _on_ihvp_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)


async def _on_ihvp_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, IhvpError)  # noqa: S101
    if status_of(type(error)) >= HTTPStatus.INTERNAL_SERVER_ERROR:
        structlog.get_logger("app").warning("request refused", code=error.code, reason=error.message)
    return problem_response(error)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    faults = error.errors()
    if any(fault["type"] == "json_invalid" for fault in faults):
        fault = faults[0]
        return problem_response(
            e.MalformedBody(
                f"The body is not valid JSON: {fault.get('ctx', {}).get('error', 'cannot be read')}.",
                given=f"a fault at character {fault['loc'][-1]}",
                hint="Send one JSON document in UTF-8.",
            )
        )
    listed = [
        {"loc": list(f["loc"]), "message": f["msg"], "type": f["type"], "given": _short(f.get("input"))}
        for f in faults[:ERRORS_SHOWN]
    ]
    # A validator that raised one of our own errors knows better than a list of fields what is wrong.
    for fault in faults:
        raised = fault.get("ctx", {}).get("error")
        if isinstance(raised, IhvpError):
            return problem_response(raised, errors=listed)
    return problem_response(_summary(faults, error.body), errors=listed)


def _summary(faults: Any, body: Any) -> IhvpError:
    if isinstance(body, bytes) and body:
        return e.ValidationFailed(
            "The body was not read as JSON.", hint="Send it with the header Content-Type: application/json."
        )
    first = faults[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return e.ValidationFailed(
        f"{where}: {first['msg']}{more}.",
        given=_short(first.get("input")),
        hint="'errors' lists each field; /docs shows the schema.",
    )


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if isinstance(error.__cause__, IhvpError):
        return problem_response(error.__cause__, headers=error.headers)
    if error.status_code < HTTPStatus.BAD_REQUEST:
        return Response(status_code=error.status_code, headers=error.headers)
    kind = _BY_STATUS.get(error.status_code, IhvpError)
    if kind is e.NotFound:
        found: IhvpError = e.NotFound(
            "Nothing is at this address.", given=request.url.path[:200], hint="/docs lists the addresses."
        )
    elif kind is e.MethodNotAllowed:
        found = e.MethodNotAllowed(
            "This address does not take this method.",
            given=request.method,
            allowed=_methods_here(request),
        )
        return problem_response(found, headers={"Allow": _methods_here(request)})
    elif kind is e.MalformedBody:
        found = e.MalformedBody(
            "The body cannot be read as JSON.", hint="Send one JSON document in UTF-8, not nested hundreds deep."
        )
    else:
        found = kind(str(error.detail))
    return problem_response(found, headers=error.headers)


def _methods_here(request: Request) -> str:
    # Starlette knows the methods of the first route at an address only; ours has a route a method.
    routes: list[APIRoute] = request.app.state.api_routes
    path = request.url.path
    return ", ".join(sorted({m for r in routes if r.path_regex.match(path) for m in r.methods or ()}))


async def _on_disconnect(_: Request, __: Exception) -> Response:
    # Nobody reads this; it only keeps a caller who left from being logged as our fault.
    return problem_response(e.MalformedBody("The connection closed before the body was complete."))


def _short(value: Any) -> str | None:
    if value is None:
        return None
    try:
        text = repr(value) if not isinstance(value, (list, dict)) or len(value) < ERRORS_SHOWN else _outline(value)
    except ValueError:  # an integer of thousands of digits has no decimal form
        return "a number too long to print"
    return text if len(text) <= 200 else f"{text[:200]}…"


def _outline(value: list[Any] | dict[Any, Any]) -> str:
    return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"


def _plain(value: Any) -> Any:
    """The value as JSON can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
