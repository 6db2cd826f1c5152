"""Liveness, readiness and metrics, for machines that watch the service."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from app.answers import documented, json_answer
from app.dependencies import ServicesDep
from app.examples import READY
from app.health import scrape
from app.problems import problems
from ihvp.errors import IhvpError
from ihvp.wire import Readiness

__all__ = ["router"]

router = APIRouter(tags=["health"])


@router.get(
    "/healthz",
    operation_id="getHealth",
    summary="Whether this process answers",
    response_class=PlainTextResponse,
    responses={
        **documented(200, "It does.", content={"text/plain": {"schema": {"type": "string"}, "example": "ok"}}),
        **problems(IhvpError),
    },
)
async def health() -> Response:
    """Looks at nothing but this process."""
    return PlainTextResponse("ok")


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Whether a job would be taken and finished",
    response_model=Readiness,
    responses={
        **documented(200, "Store and broker answer, and messages reach a worker.", example=READY),
        503: {
            **documented(503, "Something is missing.", example={**READY, "ready": False, "workers": 0})[503],
            "model": Readiness,
        },
        **problems(IhvpError),
    },
)
async def ready(services: ServicesDep) -> Any:
    """Names the part that is missing."""
    readiness = await services.readiness()
    return json_answer(readiness, 200 if readiness.ready else 503)


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses={
        **documented(
            200,
            "In Prometheus' text format.",
            content={"text/plain": {"schema": {"type": "string"}, "example": "ihvp_queue_length 0.0\n"}},
        ),
        **problems(IhvpError),
    },
)
async def metrics(services: ServicesDep) -> Response:
    """Answers also while the store is away."""
    return Response(await scrape(services), media_type=CONTENT_TYPE_LATEST)
