"""Blobs: bytes by their sha256, in and out as streams."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.answers import CONTENT_RANGE, ETAG, LOCATION, documented, json_answer
from app.byte_ranges import serve_bytes
from app.dependencies import BlobDigestPath, ServicesDep
from app.examples import BLOB
from app.problems import problems
from app.transfers import receive_blob, whole_blob
from ihvp import errors as e
from ihvp.wire import BlobView

__all__ = ["router"]

router = APIRouter(prefix="/v1/blobs", tags=["blobs"])

OCTETS = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
READ = {
    **documented(200, "The bytes.", headers=ETAG, content=OCTETS),
    **documented(206, "The range asked for.", headers={**ETAG, **CONTENT_RANGE}, content=OCTETS),
    **documented(304, "Blobs never change.", headers=ETAG),
    **problems(e.InvalidReference, e.BlobNotFound, e.RangeNotSatisfiable, e.IhvpError),
}
RANGE_PARAMETERS = {
    "parameters": [
        {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "example": example}
        for name, example in (
            ("Range", "bytes=0-1023"),
            ("If-Range", '"' + "3f" * 32 + '"'),
            ("If-None-Match", '"' + "3f" * 32 + '"'),
        )
    ]
}


@router.put(
    "/{digest}",
    operation_id="putBlob",
    summary="Upload a blob",
    status_code=201,
    response_model=BlobView,
    openapi_extra={"requestBody": {"required": True, "content": OCTETS}},
    responses={
        **documented(201, "Stored.", example=BLOB, headers=LOCATION),
        200: {**documented(200, "It was there already.", example=BLOB, headers=LOCATION)[200], "model": BlobView},
        **problems(
            e.InvalidReference,
            e.DigestMismatch,
            e.BodyTooLarge,
            e.UnsupportedMediaType,
            e.OutOfSpace,
            e.QuotaExceeded,
            e.IhvpError,
        ),
    },
)
async def put(digest: BlobDigestPath, request: Request, services: ServicesDep) -> Any:
    """The body is the raw bytes; they are kept only if they hash to the digest in the address."""
    info = await receive_blob(services, digest, request.stream())
    href = f"/v1/blobs/{info.digest}"
    view = BlobView(digest=info.digest, size=info.size, href=href)
    return json_answer(view, 201 if info.created else 200, {"Location": href})


@router.get(
    "/{digest}",
    operation_id="getBlob",
    summary="Download a blob",
    response_class=Response,
    openapi_extra=RANGE_PARAMETERS,
    responses=READ,
)
async def get(digest: BlobDigestPath, request: Request, services: ServicesDep) -> Response:
    """Whole, or a byte range."""
    source = await whole_blob(services, digest)
    return serve_bytes(
        request,
        source,
        etag=f'"{digest.removeprefix("sha256:")}"',
        media_type="application/octet-stream",
        headers={"Cache-Control": "private, max-age=31536000, immutable"},
    )


@router.head(
    "/{digest}",
    operation_id="headBlob",
    summary="Ask whether a blob is there, and how large",
    response_class=Response,
    openapi_extra=RANGE_PARAMETERS,
    responses={status: {k: v for k, v in entry.items() if k != "content"} for status, entry in READ.items()},
)
async def head(digest: BlobDigestPath, request: Request, services: ServicesDep) -> Response:
    """As a download, without the bytes."""
    return await get(digest, request, services)
