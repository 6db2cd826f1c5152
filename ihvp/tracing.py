"""OpenTelemetry traces: made where a collector is named, and not even imported where none is.

The trace of a job begins with the request that submits it. The job's record carries its W3C ``traceparent``, because
the message that wakes a worker says nothing of the job that the worker will take.
"""

from __future__ import annotations

import re
import sys
import threading
from typing import TYPE_CHECKING, Final

from ihvp import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer, TracerProvider

    from ihvp.settings import Settings

__all__ = ["Tracing", "context_of", "current_trace_id", "current_traceparent", "start_tracing", "valid_traceparent"]

FLUSH_S: Final = 2.0
"""Longest that a process waits at its end for a collector to take its last spans."""
_TRACEPARENT: Final = re.compile(r"^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$")


class Tracing:
    """Makes the spans of one process and sends them, from a thread of its own: made after a fork, never before.

    Args:
        settings: Name the collector; OpenTelemetry's own ``OTEL_*`` variables say the rest: headers, sampling, limits.
        service: Name of the kind of process: ``ihvp-api``, ``ihvp-worker``.
    """

    def __init__(self, settings: Settings, service: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({"service.namespace": settings.namespace, "service.version": __version__})
        if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: service}))
        own = settings.otlp_endpoint
        exporter = OTLPSpanExporter() if own is None else OTLPSpanExporter(f"{own.rstrip('/')}/v1/traces")
        self._processor = BatchSpanProcessor(exporter)
        made = TracerProvider(resource=resource, shutdown_on_exit=False)
        made.add_span_processor(self._processor)
        self.provider: TracerProvider = made
        self.tracer: Tracer = made.get_tracer("ihvp", __version__)

    def close(self) -> None:
        """Sends what is left, as far as the collector takes it within two seconds."""
        # Beside a collector that is away the exporter would go on trying for longer than a stop may take.
        flush = threading.Thread(target=self._processor.shutdown, name="flush-traces", daemon=True)
        flush.start()
        flush.join(FLUSH_S)


def start_tracing(settings: Settings, service: str) -> Tracing | None:
    """Tracing as the settings want it; None where they want none."""
    return Tracing(settings, service) if settings.tracing else None


def valid_traceparent(text: str | None) -> str | None:
    """The text if it is a W3C ``traceparent``; any other is left alone, as the standard asks."""
    return text if text is not None and _TRACEPARENT.fullmatch(text) else None


def context_of(traceparent: str | None) -> Context | None:
    """The context of a span in another process; None where there is none."""
    if traceparent is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def current_traceparent() -> str | None:
    """The ``traceparent`` of the span that is open here; None without one."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def current_trace_id() -> str | None:
    """The trace that is open here; None without one."""
    found = current_traceparent()
    return None if found is None else found.split("-")[1]
