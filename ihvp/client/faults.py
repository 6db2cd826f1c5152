"""Turns the service's problem documents back into the errors they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import httpx

from ihvp import errors as e
from ihvp.errors import IhvpError, JobFailed
from ihvp.jobs.states import JobState
from ihvp.wire import JobView

__all__ = ["error_from_response", "raise_unless_succeeded"]

# For answers that are not ours: a proxy's error page, or a code that this version does not know.
_BY_STATUS: Final[dict[int, type[IhvpError]]] = {
    400: e.InvalidInput,
    401: e.Unauthenticated,
    403: e.Forbidden,
    404: e.NotFound,
    409: e.Conflict,
    410: e.Gone,
    413: e.BodyTooLarge,
    422: e.InvalidInput,
    429: e.TooManyRequests,
    502: e.Unavailable,
    503: e.Unavailable,
    504: e.Unavailable,
}
_SHOWN: Final = 300


def error_from_response(response: httpx.Response) -> IhvpError:
    """The error that an answer with a status of 400 or more stands for; its body must have been read."""
    problem = _problem(response)
    fallback = _BY_STATUS.get(response.status_code, IhvpError)
    if problem is None:
        said = response.text.strip()[:_SHOWN] or response.reason_phrase
        return fallback(f"{response.request.url} answered {response.status_code}: {said}")
    error = _error_from(problem, fallback)
    for fault in problem.get("errors") or []:
        error.add_note(f"{'.'.join(map(str, fault.get('loc', [])))}: {fault.get('message')}")
    return error


def raise_unless_succeeded(job: JobView) -> None:
    """Says why a job that has ended has no result.

    Raises:
        JobFailed: It did not succeed; its ``reason`` is the job's own error, where it has one.
    """
    if job.state is JobState.Succeeded:
        return
    if job.error is None:
        raise JobFailed(f"Job {job.id} ended {job.state.value}.")
    reason = _error_from(job.error.model_dump(), IhvpError)
    raise JobFailed(
        f"Job {job.id} {job.state.value} ({job.error.code}): {reason.message}",
        reason=reason,
        given=reason.given,
        allowed=reason.allowed,
        hint=reason.hint,
    ) from reason


def _error_from(parts: Mapping[str, Any], fallback: type[IhvpError]) -> IhvpError:
    kind = _by_code().get(str(parts.get("code")), fallback)
    message = parts.get("message") or parts.get("detail") or parts.get("title") or "The service refused."
    return kind(
        str(message),
        given=parts.get("given"),
        allowed=parts.get("allowed"),
        hint=parts.get("hint"),
    )


def _problem(response: httpx.Response) -> dict[str, Any] | None:
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        problem = response.json()
    except ValueError:
        return None
    return problem if isinstance(problem, dict) else None


@cache
def _by_code() -> dict[str, type[IhvpError]]:
    return {kind.code: kind for kind in _tree(IhvpError) if kind.__module__.startswith(f"{e.__name__}.")}


def _tree(kind: type[IhvpError]) -> Iterator[type[IhvpError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)
