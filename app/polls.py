"""The busiest request, a plain look at a job, on the shortest way to its answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from app.errors import problem_response
from app.etags import matches
from ihvp.errors import IhvpError
from ihvp.tenants import DEFAULT_TENANT

if TYPE_CHECKING:
    from fastapi.routing import APIRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

    from app.job_bodies import Sight
    from app.services import Services

__all__ = ["Polls", "job_as_seen"]

PLAIN: Final = re.compile(r"/v1/jobs/(job_[0-9A-HJKMNP-TV-Z]{26})")


class Polls:
    """ASGI middleware that answers ``GET /v1/jobs/{id}`` where it has no query; all else goes on to the routes.

    Routing a request, and reading its parameters as they are declared, takes half as long as all the rest of a poll.
    Of a well-formed id and no query nothing is left to be checked. The declared route gives the same answer, byte for
    byte; it is what others are answered by, and what the documentation is made of.

    Args:
        app: What it wraps.
        route: The declared route.
    """

    def __init__(self, app: ASGIApp, route: APIRoute) -> None:
        self.app = app
        self.route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        plain = (
            PLAIN.fullmatch(scope["path"])
            if scope["type"] == "http" and scope["method"] == "GET" and not scope["query_string"]
            else None
        )
        if plain is None:
            await self.app(scope, receive, send)
            return
        job_id = plain[1]
        # What the log and the metrics call the request by.
        scope["route"], scope["path_params"] = self.route, {"job_id": job_id}
        services: Services = scope["app"].state.services.of(scope.get("tenant", DEFAULT_TENANT))
        try:
            response = await job_as_seen(services, await services.bodies.look(job_id), _known(scope))
        except IhvpError as error:
            response = problem_response(error)
        await response(scope, receive, send)


async def job_as_seen(services: Services, sight: Sight, known: str | None) -> Response:
    """The answer to a look at a job: its body, or that it is as the caller knows it.

    Args:
        services: Of the tenant.
        sight: The job.
        known: The request's If-None-Match.

    Raises:
        JobNotFound: The job is gone.
    """
    if matches(known, sight.etag):
        return Response(status_code=304, headers={"ETag": sight.etag, "Cache-Control": "no-cache"})
    sight, body = await services.bodies.render(sight)
    return Response(body, headers={"ETag": sight.etag, "Cache-Control": "no-cache"}, media_type="application/json")


def _known(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"if-none-match":
            return str(value, "latin-1")
    return None
