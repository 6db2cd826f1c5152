"""The API's part of traces: a span for each request, named by its route."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ihvp.tracing import Tracing

__all__ = ["name_span", "note_fault", "trace_requests"]

NOT_TRACED: Final = "/healthz$,/readyz$,/metrics$"
"""What machines ask every few seconds tells of no job."""


def trace_requests(app: FastAPI, tracing: Tracing) -> None:
    """Has each request make a span, or go on that of its ``traceparent``."""
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    app.add_middleware(
        OpenTelemetryMiddleware,
        tracer_provider=tracing.provider,
        excluded_urls=NOT_TRACED,
        exclude_spans=["receive", "send"],
    )


def name_span(method: str, route: str, attributes: dict[str, str]) -> None:
    """Names the request's span, once its route is known; does nothing where requests are not traced."""
    span = _current_span()
    if span is not None and span.is_recording():
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
        for name, value in attributes.items():
            span.set_attribute(f"ihvp.{name}", value)


def note_fault(error: BaseException) -> None:
    """Has the request's span tell what went wrong."""
    span = _current_span()
    if span is not None and span.is_recording():
        span.record_exception(error)


def _current_span() -> Any:
    trace = sys.modules.get("opentelemetry.trace")
    return None if trace is None else trace.get_current_span()
