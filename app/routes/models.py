"""Models: register a version, list them, look one up."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from starlette.responses import Response

from app.answers import LOCATION, documented, json_answer
from app.dependencies import ModelAliasPath, ModelNamePath, ModelVersionPath, ServicesDep
from app.examples import MODEL, MODEL_PAGE, MODEL_VERSIONS, REGISTRATION
from app.listing import list_models
from app.problems import ANYWHERE, SOURCES, WITH_BODY, problems
from app.registration import register_model
from app.strict_json import StrictJsonRoute
from ihvp import errors as e
from ihvp.references import MODEL_NAME_PATTERN, ModelRef
from ihvp.wire import ModelAlias, ModelPage, ModelRegistration, ModelView

__all__ = ["router"]

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=StrictJsonRoute)

REFUSALS: tuple[type[e.IhvpError], ...] = (
    e.UnknownBlob, e.InvalidExport, e.ExportsNotAllowed,
    e.InvalidReference, e.InvalidTensor, e.UnknownArchitecture, e.InvalidArchitecture,
    e.UnknownParameters, e.WeightsMismatch, e.UnknownLoss, e.LossMismatch, e.EmptyData, e.RowsMismatch,
    e.DataMismatch, e.TargetsOutOfRange, e.InvalidIndex, e.InvalidSampleWeights,
    *SOURCES,
)  # fmt: skip


@router.post(
    "",
    operation_id="registerModel",
    summary="Register a version of a model",
    status_code=201,
    response_model=ModelView,
    responses={
        **documented(201, "A new version.", example=MODEL, headers=LOCATION),
        200: {
            **documented(200, "This name has this spec already.", example=MODEL, headers=LOCATION)[200],
            "model": ModelView,
        },
        **problems(*ANYWHERE, *WITH_BODY, *REFUSALS),
    },
)
async def register(
    registration: Annotated[ModelRegistration, Body(examples=[REGISTRATION])], services: ServicesDep
) -> Any:
    """Weights, data and loss are checked against the architecture; a version never changes once it is there."""
    registered = await register_model(services, registration)
    view = ModelView.of(registered.model)
    return json_answer(view, 201 if registered.created else 200, {"Location": view.links["self"]})


@router.get(
    "",
    operation_id="listModels",
    summary="List the latest version of each model",
    response_model=ModelPage,
    responses={**documented(200, "Models in order of their names.", example=MODEL_PAGE), **problems(*ANYWHERE)},
)
async def list_(
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(pattern=MODEL_NAME_PATTERN, description="From `next`.")] = None,
) -> Any:
    """Follow `next` until it is null."""
    return json_answer(await list_models(services, limit, cursor))


@router.get(
    "/{name}",
    operation_id="listModelVersions",
    summary="List the versions of a model",
    response_model=ModelPage,
    responses={
        **documented(200, "Versions, newest first, and what aliases stand for.", example=MODEL_VERSIONS),
        **problems(*ANYWHERE, e.ModelNotFound),
    },
)
async def versions(name: ModelNamePath, services: ServicesDep) -> Any:
    """All of them, in one page."""
    views = [ModelView.of(model) for model in await services.models.versions(name)]
    return json_answer(ModelPage(models=views, aliases=await services.models.aliases(name)))


@router.get(
    "/{name}/{version}",
    operation_id="getModel",
    summary="Look at a version of a model",
    response_model=ModelView,
    responses={**documented(200, "The version.", example=MODEL), **problems(*ANYWHERE, e.ModelNotFound)},
)
async def get(name: ModelNamePath, version: ModelVersionPath, services: ServicesDep) -> Any:
    """Its `layout` says where each parameter stands in b and x."""
    return json_answer(ModelView.of(await services.models.get(ModelRef.parse(f"{name}@{version}"))))


@router.put(
    "/{name}/aliases/{alias}",
    operation_id="setModelAlias",
    summary="Have an alias stand for a version",
    response_model=ModelView,
    responses={
        **documented(200, "The version that it stands for now.", example=MODEL),
        **problems(*ANYWHERE, *WITH_BODY, e.ModelNotFound, e.InvalidReference),
    },
)
async def set_alias(
    name: ModelNamePath,
    alias: ModelAliasPath,
    wanted: Annotated[ModelAlias, Body(examples=[{"version": 1}])],
    services: ServicesDep,
) -> Any:
    """`name@alias` means this version from now on. Jobs that were submitted before keep what it meant then."""
    return json_answer(ModelView.of(await services.models.name_version(name, alias, wanted.version)))


@router.delete(
    "/{name}/aliases/{alias}",
    operation_id="dropModelAlias",
    summary="Take an alias away",
    status_code=204,
    response_model=None,
    responses={
        **documented(204, "It stands for nothing any more; the version is still there."),
        **problems(*ANYWHERE, e.ModelNotFound, e.InvalidReference),
    },
)
async def drop_alias(name: ModelNamePath, alias: ModelAliasPath, services: ServicesDep) -> Response:
    """Jobs that were submitted under it keep their version."""
    await services.models.drop_alias(name, alias)
    return Response(status_code=204)
