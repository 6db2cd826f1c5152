"""How routes answer, and how the answers are documented: views as JSON, with their headers and an example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from app.problems import Responses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

__all__ = ["CONTENT_RANGE", "ETAG", "LOCATION", "SUBMITTED", "VARY", "documented", "json_answer"]


def _header(description: str, example: str, *, required: bool = True) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}, "example": example, "required": required}


LOCATION: Final = {"Location": _header("Where the new thing is.", "/v1/jobs/job_01KAT5ZXQ6V5M9W3E8H2R7N4CD")}
ETAG: Final = {"ETag": _header("Changes when the body does; send it back as If-None-Match.", '"r5"')}
SUBMITTED: Final = {
    "Location": _header("Where the job is.", "/v1/jobs/job_01KAT5ZXQ6V5M9W3E8H2R7N4CD", required=False),
    "Idempotent-Replayed": _header("An earlier request with this key made the job.", "true", required=False),
    "Preference-Applied": _header("For how long the answer was held at most.", "wait=10", required=False),
}
CONTENT_RANGE: Final = {"Content-Range": _header("Which bytes these are.", "bytes 0-1023/104712")}
VARY: Final = {"Vary": _header("The answer depends on this header.", "Accept")}


def json_answer(view: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A view as a response. It was validated when it was made, so FastAPI need not do it again."""
    return Response(view.model_dump_json(), status, headers, media_type="application/json")


def documented(
    status: int,
    description: str,
    *,
    example: Any = None,
    headers: Mapping[str, Any] | None = None,
    content: dict[str, Any] | None = None,
) -> Responses:
    """The ``responses=`` entry of an answer that is not an error."""
    entry: dict[str, Any] = {"description": description}
    if content is not None or example is not None:
        entry["content"] = {
            **({} if example is None else {"application/json": {"example": example}}),
            **(content or {}),
        }
    if headers:
        entry["headers"] = dict(headers)
    return {status: entry}
