"""What routes ask FastAPI for: the services, and path parameters that are checked once."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import Depends, Path, Request

from app.examples import JOB_ID, WEIGHTS
from app.services import Services
from ihvp.errors import JobNotFound, ModelNotFound
from ihvp.references import MODEL_NAME_PATTERN, parse_digest

__all__ = ["BlobDigestPath", "JobId", "ModelNamePath", "ModelVersionPath", "ServicesDep"]

JOB_ID_PATTERN: Final = r"^job_[0-9A-HJKMNP-TV-Z]{26}$"
VERSION_PATTERN: Final = r"^(latest|[1-9][0-9]{0,8})$"
DIGEST_SCHEMA: Final = {"pattern": r"^sha256:[0-9a-f]{64}$"}


# Dependencies are coroutines although they await nothing: FastAPI runs plain functions in a thread.
async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _job_id(
    job_id: Annotated[str, Path(examples=[JOB_ID], json_schema_extra={"pattern": JOB_ID_PATTERN})],
) -> str:
    # An id that cannot exist is not looked up, so that no caller reaches into other keys of the store.
    if not re.fullmatch(JOB_ID_PATTERN, job_id):
        raise JobNotFound(
            "No job has this id.",
            given=job_id[:100],
            allowed="job_ and 26 characters",
            hint="GET /v1/jobs lists them.",
        )
    return job_id


async def _model_name(
    name: Annotated[str, Path(examples=["house-prices"], json_schema_extra={"pattern": MODEL_NAME_PATTERN})],
) -> str:
    if not re.fullmatch(MODEL_NAME_PATTERN, name):
        raise ModelNotFound("No model has this name.", given=name[:100], hint="GET /v1/models lists them.")
    return name


async def _model_version(
    version: Annotated[
        str,
        Path(description="A number, or latest.", examples=["1"], json_schema_extra={"pattern": VERSION_PATTERN}),
    ],
) -> int | None:
    if not re.fullmatch(VERSION_PATTERN, version):
        raise ModelNotFound(
            "Versions are numbers.", given=version[:100], allowed="1, 2, … or latest", hint="GET /v1/models/{name}."
        )
    return None if version == "latest" else int(version)


async def _digest(digest: Annotated[str, Path(examples=[WEIGHTS], json_schema_extra=DIGEST_SCHEMA)]) -> str:
    return parse_digest(digest)


ServicesDep = Annotated[Services, Depends(_services)]
JobId = Annotated[str, Depends(_job_id)]
ModelNamePath = Annotated[str, Depends(_model_name)]
ModelVersionPath = Annotated[int | None, Depends(_model_version)]
BlobDigestPath = Annotated[str, Depends(_digest)]
