"""Log lines are one JSON object each, on standard error: the application's own, and those of the libraries it uses."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import structlog

from app.request_id import current_request_id
from ihvp.tracing import current_trace_id

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

__all__ = ["configure_logs"]

HANDLER: Final = "ihvp-json"


def configure_logs(level: str) -> None:
    """Sets structlog up for this process, and has other libraries' lines written in the same form.

    Args:
        level: Least level logged: debug, info, warning or error.
    """
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        _add_request,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    # One encoder for all lines: json.dumps makes one a call as soon as it is given an option.
    rendered = structlog.processors.JSONRenderer(serializer=_encode)
    least = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, rendered],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Unfailing(sys.stderr))),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name(HANDLER)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _without_colours, rendered],
        )
    )
    root = logging.getLogger()
    # Others' handlers stay: a program that embeds the application has its own.
    root.handlers = [*(each for each in root.handlers if each.get_name() != HANDLER), handler]
    root.setLevel(max(least, logging.INFO))
    # uvicorn has set up plain text before it loads the application. Its access log says less than ours.
    for name, heard in (("uvicorn", True), ("uvicorn.error", True), ("uvicorn.access", False)):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = heard
    # One line for each outgoing request says nothing that an operator asked for.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _Unfailing:
    """A stream whose full disk, or whose end, is nobody's business: no request is to fail for a line about it.

    Args:
        stream: Where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As of a stream."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As of a stream."""
        with suppress(OSError, ValueError):
            self._stream.flush()


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)


def _encode(event: EventDict, **_: Any) -> str:
    return _encoder.encode(event)


def _add_request(_: Any, __: str, event: EventDict) -> EventDict:
    request_id = current_request_id()
    if request_id is not None:
        event.setdefault("request_id", request_id)
        trace_id = current_trace_id()
        if trace_id is not None:
            event.setdefault("trace_id", trace_id)
    return event


def _without_colours(_: Any, __: str, event: EventDict) -> EventDict:
    # The same message once more, for terminals.
    event.pop("color_message", None)
    return event
