"""What routes ask FastAPI for: the services, and path parameters that are checked where they are declared."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import Depends, Path, Request
from pydantic import AfterValidator

from app.examples import DELIVERY_ID, JOB_ID, WEIGHTS
from app.services import Services
from ihvp.errors import JobNotFound, ModelNotFound
from ihvp.references import ALIAS_PATTERN, DIGEST_PATTERN, MODEL_NAME_PATTERN, parse_alias, parse_digest
from ihvp.tenants import DEFAULT_TENANT
from ihvp.webhooks.rules import DELIVERY_ID_PATTERN, delivery_not_found

__all__ = [
    "JOB_ID_PATTERN",
    "BlobDigestPath",
    "DeliveryId",
    "JobId",
    "ModelAliasPath",
    "ModelNamePath",
    "ModelVersionPath",
    "ServicesDep",
    "services_of",
]

JOB_ID_PATTERN: Final = r"^job_[0-9A-HJKMNP-TV-Z]{26}$"
VERSION_PATTERN: Final = r"^([1-9][0-9]{0,8}|[a-z][a-z0-9_-]{0,63})$"


def services_of(request: Request) -> Services:
    """The services of the application that answers this request, as its tenant sees them."""
    services: Services = request.app.state.services
    return services.of(request.scope.get("tenant", DEFAULT_TENANT))


# A coroutine although it awaits nothing: FastAPI would run a plain function in a thread.
async def _services(request: Request) -> Services:
    return services_of(request)


def _job_id(text: str) -> str:
    # An id that cannot exist is not looked up, so that no caller reaches into other keys of the store.
    if not re.fullmatch(JOB_ID_PATTERN, text):
        raise JobNotFound(
            "No job has this id.", given=text[:100], allowed="job_ and 26 characters", hint="GET /v1/jobs lists them."
        )
    return text


def _delivery_id(text: str) -> str:
    if not re.fullmatch(DELIVERY_ID_PATTERN, text):
        raise delivery_not_found(text)
    return text


def _model_name(text: str) -> str:
    if not re.fullmatch(MODEL_NAME_PATTERN, text):
        raise ModelNotFound("No model has this name.", given=text[:100], hint="GET /v1/models lists them.")
    return text


def _model_version(text: str) -> str:
    if not re.fullmatch(VERSION_PATTERN, text):
        raise ModelNotFound(
            "Versions are numbers or aliases.",
            given=text[:100],
            allowed="1, 2, …, latest or an alias",
            hint="GET /v1/models/{name} lists them.",
        )
    return text


# What is not found is no fault of form, so these raise errors of their own, which answer 404 and not 422.
JobId = Annotated[str, AfterValidator(_job_id), Path(examples=[JOB_ID], json_schema_extra={"pattern": JOB_ID_PATTERN})]
DeliveryId = Annotated[
    str,
    AfterValidator(_delivery_id),
    Path(examples=[DELIVERY_ID], json_schema_extra={"pattern": DELIVERY_ID_PATTERN}),
]
ModelNamePath = Annotated[
    str,
    AfterValidator(_model_name),
    Path(examples=["house-prices"], json_schema_extra={"pattern": MODEL_NAME_PATTERN}),
]
ModelVersionPath = Annotated[
    str,
    AfterValidator(_model_version),
    Path(description="A number, latest, or an alias.", examples=["1"], json_schema_extra={"pattern": VERSION_PATTERN}),
]
ModelAliasPath = Annotated[
    str, AfterValidator(parse_alias), Path(examples=["champion"], json_schema_extra={"pattern": ALIAS_PATTERN})
]
BlobDigestPath = Annotated[
    str, AfterValidator(parse_digest), Path(examples=[WEIGHTS], json_schema_extra={"pattern": DIGEST_PATTERN})
]
ServicesDep = Annotated[Services, Depends(_services)]
