"""How routes document the errors they may answer with: one entry a status, one example a code."""

from __future__ import annotations

from typing import Any, Final

from app.errors import PROBLEM_JSON, status_of, title_of
from ihvp import errors as e
from ihvp.errors import IhvpError

__all__ = ["ANYWHERE", "SOURCES", "WITH_BODY", "Responses", "header", "problems"]

Responses = dict[int | str, dict[str, Any]]
SCHEMA: Final = {"$ref": "#/components/schemas/ProblemDetails"}

# What any route that reads the store, and any route that takes a JSON body, may answer with.
ANYWHERE: Final[tuple[type[IhvpError], ...]] = (e.ValidationFailed, e.StoreUnavailable, IhvpError)
WITH_BODY: Final[tuple[type[IhvpError], ...]] = (e.MalformedBody, e.BodyTooLarge, e.UnsupportedMediaType)
# What one may answer with that looks at files outside the blob store.
SOURCES: Final[tuple[type[IhvpError], ...]] = (
    e.SourceError, e.SourceNotFound, e.SourceForbidden, e.SourceNotAllowed, e.SourceChanged, e.SourceTooLarge,
    e.SourceTruncated, e.SourceUnavailable, e.SourceTimeout,
)  # fmt: skip


def problems(*errors: type[IhvpError]) -> Responses:
    """The ``responses=`` of a route that may raise these."""
    found: Responses = {}
    for error in errors:
        status = status_of(error)
        entry = found.setdefault(
            status,
            {"description": "", "content": {PROBLEM_JSON: {"schema": SCHEMA, "examples": {}}}, "headers": {}},
        )
        entry["description"] = "; ".join(filter(None, [entry["description"], f"`{error.code}`"]))
        entry["content"][PROBLEM_JSON]["examples"][error.code] = {
            "summary": title_of(error),
            "value": _example(error, status),
        }
        if error is e.RangeNotSatisfiable:
            entry["headers"]["Content-Range"] = header("The size of the whole.", "bytes */104712")
        if status == 401:
            entry["headers"]["WWW-Authenticate"] = header("How to authenticate.", 'Bearer realm="ihvp"')
        if error is e.RateLimited:
            entry["headers"]["RateLimit-Policy"] = header("The limit, where one is set.", '"requests";q=100;w=1')
            entry["headers"]["RateLimit"] = header("What is left of it.", '"requests";r=0;t=1')
        if error.retry_after_s is not None:
            entry["headers"]["Retry-After"] = header("Seconds after which to try again.", "1")
    return found


def header(description: str, example: str) -> dict[str, Any]:
    """How a header of an answer is documented that may be left out."""
    return {"description": description, "schema": {"type": "string"}, "example": example}


def _example(error: type[IhvpError], status: int) -> dict[str, Any]:
    title = title_of(error)
    return {
        "type": f"urn:ihvp:problem:{error.code}",
        "title": title,
        "status": status,
        "detail": f"{title}.",
        "code": error.code,
        "message": f"{title}.",
        "request_id": "5f0c1b7be0a94d11",
    }
