"""What a finished job has found: x in the representation asked for, and influence scores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from app.answers import CONTENT_RANGE, ETAG, VARY, documented, json_answer
from app.byte_ranges import serve_bytes
from app.dependencies import JobId, ServicesDep
from app.etags import matches, matches_any
from app.examples import INFLUENCE, RESULT
from app.influence import read_influence
from app.negotiation import choose
from app.problems import ANYWHERE, problems
from app.projection import open_projection
from app.results import JSON, NPY, SAFETENSORS, open_result
from app.routes.blobs import RANGE_PARAMETERS
from ihvp import errors as e
from ihvp.wire import Influence, ProjectionView, ResultView

__all__ = ["router"]

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

FORMATS: Final = {"json": JSON, "safetensors": SAFETENSORS, "npy": NPY}
BINARY: Final = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in (SAFETENSORS, NPY)}
HEADERS: Final = {**ETAG, **VARY}
CACHED: Final = {"Vary": "Accept", "Cache-Control": "private, no-cache"}


@router.get(
    "/{job_id}/result",
    operation_id="getResult",
    summary="Fetch x, with its certificate; or its dot products",
    response_model=ResultView | ProjectionView,
    openapi_extra=RANGE_PARAMETERS,
    responses={
        **documented(
            200, "The result, in the media type that Accept prefers.", example=RESULT, headers=HEADERS, content=BINARY
        ),
        **documented(
            206, "The range asked for (binary types only).", headers={**HEADERS, **CONTENT_RANGE}, content=BINARY
        ),
        **documented(304, "Results never change.", headers=HEADERS),
        **problems(
            *ANYWHERE,
            e.JobNotFound,
            e.JobNotFinished,
            e.NoResult,
            e.ResultExpired,
            e.NotAcceptable,
            e.RangeNotSatisfiable,
            e.InvalidReference,
            e.UnknownBlob,
            e.InvalidTensor,
            e.ProjectionMismatch,
        ),
    },
)
async def result(
    job_id: JobId,
    request: Request,
    services: ServicesDep,
    wanted: Annotated[
        Literal["json", "safetensors", "npy"] | None,
        Query(alias="format", description="Instead of an Accept header, for links."),
    ] = None,
    projection: Annotated[
        str | None,
        Query(
            max_length=600,
            pattern=r"^sha256:[0-9a-f]{64}(#.{1,512})?$",
            description="A blob of vectors [m, p] or [p], or of one tensor a parameter. The answer, always JSON, is "
            "then the dot products [k, m] of the solutions with its rows, and not the solutions.",
        ),
    ] = None,
) -> Any:
    """`application/json` has x inline up to a limit; safetensors carries the rest in its metadata; npy is x alone."""
    if projection is not None:
        choose(FORMATS[wanted] if wanted else request.headers.get("accept"), [JSON])
        products = await open_projection(services, job_id, projection)
        return await _unless_known(request, products.etag, lambda: products.view(services))
    kind = FORMATS[wanted] if wanted else choose(request.headers.get("accept"), [JSON, SAFETENSORS, NPY])
    found = await open_result(services, job_id)
    etag = found.etag(kind)
    if kind != JSON:
        return serve_bytes(request, found.bytes_as(kind), etag=etag, media_type=kind, headers=CACHED)
    return await _unless_known(request, etag, lambda: found.view(services.settings.max_inline_elements))


async def _unless_known(request: Request, etag: str, view: Callable[[], Awaitable[BaseModel]]) -> Response:
    """What the caller has already is not made again."""
    headers = {"ETag": etag, **CACHED}
    known = request.headers.get("if-none-match")
    unchanged = Response(status_code=304, headers=headers)
    if matches(known, etag) and not matches_any(known):
        return unchanged
    made = await view()
    # Rows that do not fit show only now, and then there is no answer that anybody could have.
    return unchanged if matches(known, etag) else json_answer(made, headers=headers)


@router.get(
    "/{job_id}/influence",
    operation_id="getInfluence",
    summary="Influence of the training points",
    response_model=Influence,
    responses={
        **documented(200, "Scores, and the points that matter most.", example=INFLUENCE),
        **problems(*ANYWHERE, e.JobNotFound, e.JobNotFinished, e.NoResult, e.NoInfluence, e.ResultExpired),
    },
)
async def influence(
    job_id: JobId,
    services: ServicesDep,
    top: Annotated[int, Query(ge=0, le=1000, description="Points listed on either side.")] = 10,
) -> Any:
    """Positive is helpful: up-weighting that training point lowers the loss at the test point."""
    return json_answer(await read_influence(services, job_id, top))
