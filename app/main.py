"""The API application: ``uvicorn app.main:create_app --factory``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.routing import APIRoute

from app.body_limit import BodyLimit
from app.documentation import DESCRIPTION, TAGS, install_openapi
from app.errors import install_error_handlers
from app.guard import Guard
from app.lifespan import lifespan
from app.logs import configure_logs
from app.metrics import Metrics
from app.polls import Polls
from app.request_context import RequestContext
from app.routes import blobs, events, health, jobs, methods, models, results, uploads, webhooks
from app.tracing import trace_requests
from app.tus import TusProtocol
from ihvp import __version__
from ihvp.settings import get_settings
from ihvp.tracing import start_tracing

if TYPE_CHECKING:
    from ihvp.settings import Settings

__all__ = ["create_app"]


def create_app(settings: Settings | None = None) -> FastAPI:
    """Builds the application; nothing is connected before its lifespan begins.

    Args:
        settings: Left out: read from the environment.
    """
    settings = settings or get_settings()
    configure_logs(settings.log_level)
    metrics = Metrics()
    app = FastAPI(
        title="ihvp",
        summary="Certified inverse-Hessian-vector products of trained PyTorch models.",
        description=DESCRIPTION,
        version=__version__,
        openapi_tags=TAGS,
        lifespan=lifespan,
        redirect_slashes=False,
        # What FastAPI would tell of itself: requests have one span each, made in app/tracing.py, and these metrics.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.settings = settings
    app.state.metrics = metrics
    install_error_handlers(app)
    # The busiest first: routes are tried in this order.
    routers = [
        jobs.reading,
        *(part.router for part in (jobs, results, events, models, blobs, uploads, methods, webhooks, health)),
    ]
    for router in routers:
        app.include_router(router)
    app.state.api_routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    # The last one added is the outermost: a body refused still has its id and its log line.
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(TusProtocol)
    app.add_middleware(Polls, route=next(route for route in app.state.api_routes if route.operation_id == "getJob"))
    app.add_middleware(Guard, routes=app.state.api_routes)
    app.state.tracing = start_tracing(settings, "ihvp-api")
    app.add_middleware(RequestContext, metrics=metrics, traced=app.state.tracing is not None)
    if app.state.tracing is not None:
        trace_requests(app, app.state.tracing)
    install_openapi(app)
    return app
