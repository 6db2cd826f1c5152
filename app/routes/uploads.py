"""Large blobs in parts, resumed where they broke off: the tus 1.0 protocol."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Final

import anyio.to_thread
from fastapi import APIRouter, Depends, Header, Path, Request
from pydantic import AfterValidator
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app.answers import documented
from app.body_limit import DRAINED_BYTES
from app.dependencies import ServicesDep
from app.limits import check_room
from app.problems import header, problems
from app.tus import EXTENSIONS, PART_TYPE, VERSION, digest_in, http_date, parse_checksum
from app.uploading import hold_upload, receive_part
from ihvp import errors as e
from ihvp.blobs.uploads import CHECKSUMS, Upload

__all__ = ["router"]

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

ID_PATTERN: Final = r"^[0-9a-f]{32}$"
EXAMPLE_ID: Final = "24e533e02ec3bc40c387f1a0e460e216"
EXAMPLE_METADATA: Final = (
    "sha256 M2E3YmQzZTIzNjBhM2QyOWVlYTQzNmZjZmI3ZTQ0YzczNWQxMTdjNDJkMWMxODM1NDIwYjZiOTk0MmRkNGYxYg==,"
    "filename d2VpZ2h0cy5zYWZldGVuc29ycw=="
)


TUS: Final = {"Tus-Resumable": header("The version of tus that is spoken.", VERSION)}
OFFSET: Final = {**TUS, "Upload-Offset": header("Bytes that are there.", "70")}
EXPIRES: Final = {"Upload-Expires": header("Until when it may be continued.", "Wed, 25 Jun 2026 16:00:00 GMT")}
PART_BODY: Final = {
    "requestBody": {"required": True, "content": {PART_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
}
WRITING: Final = (
    e.OffsetMismatch, e.UploadLocked, e.UploadStalled, e.BodyTooLarge, e.OutOfSpace, e.DigestMismatch,
    e.ChecksumMismatch, e.UnsupportedChecksum, e.UnsupportedMediaType, e.MalformedBody,
)  # fmt: skip
EVERYWHERE: Final = (e.ValidationFailed, e.UnsupportedTusVersion, e.IhvpError)


def _upload_id(text: str) -> str:
    # What cannot be an id is no path into the folder of uploads either.
    if len(text) != len(EXAMPLE_ID) or not set(text) <= set("0123456789abcdef"):
        raise e.UploadNotFound("No upload has this address.", given=text[:100], hint="POST /v1/uploads starts one.")
    return text


UploadId = Annotated[
    str, AfterValidator(_upload_id), Path(examples=[EXAMPLE_ID], json_schema_extra={"pattern": ID_PATTERN})
]


async def _tus(
    tus_resumable: Annotated[
        str, Header(description="The version of tus that is spoken.", examples=[VERSION], pattern=r"^1\.0\.0$")
    ],
) -> None:
    """Documents the header; the middleware has checked it."""
    del tus_resumable


TUS_SPOKEN: Final = [Depends(_tus)]
UploadChecksum = Annotated[
    str | None,
    Header(
        description="`sha1` or `sha256`, a space, and the base64 of the part's hash; a part that has another one is "
        "not kept.",
        examples=["sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="],
    ),
]


@router.options(
    "",
    operation_id="describeUploads",
    summary="Ask what is offered",
    status_code=204,
    response_class=Response,
    responses={
        **documented(
            204,
            "Versions, extensions and bounds.",
            headers={
                **TUS,
                "Tus-Version": header("Versions that are spoken.", VERSION),
                "Tus-Extension": header("Extensions that are spoken.", ",".join(EXTENSIONS)),
                "Tus-Max-Size": header("Bytes of the largest upload.", "8589934592"),
                "Tus-Checksum-Algorithm": header("Checksums of parts.", ",".join(CHECKSUMS)),
            },
        ),
        **problems(e.IhvpError),
    },
)
async def describe(services: ServicesDep) -> Response:
    """The protocol is tus 1.0 (https://tus.io): any client that speaks it can upload here."""
    return Response(
        status_code=204,
        headers={
            "Tus-Version": VERSION,
            "Tus-Extension": ",".join(EXTENSIONS),
            "Tus-Max-Size": str(services.settings.max_blob_bytes),
            "Tus-Checksum-Algorithm": ",".join(CHECKSUMS),
        },
    )


@router.post(
    "",
    operation_id="createUpload",
    summary="Start an upload",
    status_code=201,
    dependencies=TUS_SPOKEN,
    response_class=Response,
    openapi_extra={"requestBody": {**PART_BODY["requestBody"], "required": False}},
    responses={
        **documented(
            201,
            "Started. With a body, its bytes are the first part.",
            headers={**OFFSET, **EXPIRES, "Location": header("Where the parts go.", f"/v1/uploads/{EXAMPLE_ID}")},
        ),
        **problems(*EVERYWHERE, *WRITING, e.InvalidHeader, e.InvalidReference, e.TooManyUploads, e.QuotaExceeded),
    },
)
async def create(
    request: Request,
    services: ServicesDep,
    upload_length: Annotated[int, Header(ge=0, description="Bytes of the whole.", examples=[100])],
    upload_metadata: Annotated[
        str,
        Header(
            max_length=4096,
            description="Pairs of a key and a base64 value, a comma between them. `sha256` is needed: the 64 "
            "hexadecimal digits that `sha256sum` prints. Others, as `filename`, are kept and told.",
            examples=[EXAMPLE_METADATA],
        ),
    ],
    upload_checksum: UploadChecksum = None,
) -> Response:
    """Says how long the blob will be and what it will hash to; it is a blob once its last byte is there."""
    try:
        upload = await _start(services, upload_length, upload_metadata)
        await hold_upload(services, upload)
        if request.headers.get("content-type") is None and not _size(request):
            return _told(upload, 201, {"Location": f"/v1/uploads/{upload.id}"})
    except e.IhvpError:
        await _drain(request)
        raise
    upload = await _receive(request, services, upload.id, 0, upload_checksum)
    return _told(upload, 201, {"Location": f"/v1/uploads/{upload.id}"})


@router.head(
    "/{upload_id}",
    operation_id="lookAtUpload",
    summary="Ask how far an upload has come",
    dependencies=TUS_SPOKEN,
    response_class=Response,
    responses={
        status: {name: part for name, part in entry.items() if name != "content"}
        for status, entry in {
            **documented(
                200,
                "It goes on from Upload-Offset; where that is Upload-Length, the blob is there.",
                headers={
                    **OFFSET,
                    **EXPIRES,
                    "Upload-Length": header("Bytes of the whole.", "100"),
                    "Upload-Metadata": header("As it was sent at the start.", EXAMPLE_METADATA),
                },
            ),
            **problems(*EVERYWHERE, e.UploadNotFound, e.UploadExpired),
        }.items()
    },
)
async def look(upload_id: UploadId, services: ServicesDep) -> Response:
    """A part that is coming in just now is counted as far as it is on the disk."""
    upload = await anyio.to_thread.run_sync(services.uploads.find, upload_id)
    await hold_upload(services, upload)
    told = {"Upload-Length": str(upload.length), "Upload-Metadata": upload.metadata, "Cache-Control": "no-store"}
    return _told(upload, 200, told)


@router.patch(
    "/{upload_id}",
    operation_id="continueUpload",
    summary="Send the next part",
    dependencies=TUS_SPOKEN,
    status_code=204,
    response_class=Response,
    openapi_extra=PART_BODY,
    responses={
        **documented(204, "Kept. With the last byte, the blob is there.", headers={**OFFSET, **EXPIRES}),
        **problems(*EVERYWHERE, *WRITING, e.UploadNotFound, e.UploadExpired),
    },
)
async def append(
    upload_id: UploadId,
    request: Request,
    services: ServicesDep,
    upload_offset: Annotated[int, Header(ge=0, description="Where the part begins.", examples=[70])],
    upload_checksum: UploadChecksum = None,
) -> Response:
    """What arrived before a connection broke is kept, but for parts with a checksum. One request writes at a time."""
    upload = await _receive(request, services, upload_id, upload_offset, upload_checksum)
    return _told(upload, 204, {})


@router.delete(
    "/{upload_id}",
    operation_id="endUpload",
    summary="Give an upload up",
    dependencies=TUS_SPOKEN,
    status_code=204,
    response_class=Response,
    responses={
        **documented(204, "It is gone with its bytes; a blob that it has become stays.", headers=TUS),
        **problems(*EVERYWHERE, e.UploadNotFound, e.UploadExpired, e.UploadLocked),
    },
)
async def end(upload_id: UploadId, services: ServicesDep) -> Response:
    """Frees the disk before the upload expires by itself."""
    await anyio.to_thread.run_sync(services.uploads.remove, upload_id)
    return Response(status_code=204)


async def _start(services: ServicesDep, length: int, metadata: str) -> Upload:
    digest, settings = digest_in(metadata), services.settings
    if length > settings.max_blob_bytes:
        raise e.BodyTooLarge(
            "The upload exceeds the limit.",
            given=f"Upload-Length: {length}"[:200],
            allowed=f"{settings.max_blob_bytes} bytes",
            hint="The operator sets IHVP_MAX_BLOB_BYTES.",
        )

    if not await services.holdings.held([digest]):
        await check_room(services, length)

    def make() -> Upload:
        return services.uploads.create(
            digest, length, metadata=metadata, lasts_s=settings.upload_expiry_s, most=settings.max_uploads
        )

    return await anyio.to_thread.run_sync(make)


async def _receive(
    request: Request, services: ServicesDep, upload_id: str, offset: int, upload_checksum: str | None
) -> Upload:
    try:
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != PART_TYPE:
            raise e.UnsupportedMediaType(
                "A part has a media type of its own.",
                given=request.headers.get("content-type", "no Content-Type")[:100],
                allowed=f"Content-Type: {PART_TYPE}",
            )
        checksum = parse_checksum(upload_checksum)
        return await receive_part(
            services, upload_id, offset, request.stream(), announced=_size(request), checksum=checksum
        )
    except e.IhvpError as error:
        if not isinstance(error, e.UploadStalled):
            await _drain(request)
        raise


async def _drain(request: Request) -> None:
    """Reads what is left of a body that was refused, so that the caller sees why."""
    if request.headers.get("expect", "").lower() == "100-continue":
        return
    left = DRAINED_BYTES
    # Raised where nothing is left to be read, or nobody there to send it.
    with suppress(RuntimeError, ClientDisconnect):
        async for chunk in request.stream():
            left -= len(chunk)
            if left <= 0:
                return


def _size(request: Request) -> int:
    announced = request.headers.get("content-length", "")
    return int(announced) if announced.isdecimal() else 0


def _told(upload: Upload, status: int, headers: dict[str, str]) -> Response:
    told = {"Upload-Offset": str(upload.offset), "Upload-Expires": http_date(upload.expires_at)}
    return Response(status_code=status, headers={**told, **headers})
