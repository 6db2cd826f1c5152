"""Webhooks: what became of their deliveries, and the secrets that sign them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from app.answers import documented, json_answer
from app.dependencies import JOB_ID_PATTERN, DeliveryId, ServicesDep
from app.examples import DELIVERY, JOB_ID, SECRET
from app.listing import next_page
from app.problems import ANYWHERE, problems
from ihvp import errors as e
from ihvp.webhooks.record import DeliveryState
from ihvp.wire import DeliveryPage, DeliveryView, SecretList, SecretView

__all__ = ["router"]

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

LONGEST_OVERLAP_S = 30 * 24 * 3600.0


class DeliveryQuery(BaseModel):
    """The query of ``GET /v1/webhooks/deliveries``; an unknown parameter is an error."""

    model_config = ConfigDict(extra="forbid")

    state: DeliveryState | None = Field(None, description="Only these: dead ones are tried no more until replayed.")
    job: str | None = Field(None, pattern=JOB_ID_PATTERN, description="Only those of this job.", examples=[JOB_ID])
    limit: int = Field(20, ge=1, le=200)
    cursor: str | None = Field(None, pattern=r"^[0-9]{1,16}$", description="From `next`.")


@router.get(
    "/deliveries",
    operation_id="listDeliveries",
    summary="List deliveries, newest first",
    response_model=DeliveryPage,
    responses={
        **documented(200, "A page of deliveries.", example={"deliveries": [DELIVERY], "next": None}),
        **problems(*ANYWHERE),
    },
)
async def list_(query: Annotated[DeliveryQuery, Query()], services: ServicesDep) -> Any:
    """`?state=dead` is the dead-letter list; follow `next` until it is null."""
    found, cursor = await services.webhooks.list(
        services.tenant, limit=query.limit, state=query.state, job_id=query.job, cursor=query.cursor
    )
    following = next_page("/v1/webhooks/deliveries", query, cursor)
    return json_answer(DeliveryPage(deliveries=[DeliveryView.of(each) for each in found], next=following))


@router.get(
    "/deliveries/{delivery_id}",
    operation_id="getDelivery",
    summary="Look at a delivery and its tries",
    response_model=DeliveryView,
    responses={
        **documented(200, "The delivery.", example=DELIVERY),
        **problems(*ANYWHERE, e.DeliveryNotFound),
    },
)
async def get(delivery_id: DeliveryId, services: ServicesDep) -> Any:
    """Each try says what the receiver answered, or why there is no answer."""
    return json_answer(DeliveryView.of(await services.webhooks.get(services.tenant, delivery_id)))


@router.post(
    "/deliveries/{delivery_id}/replay",
    operation_id="replayDelivery",
    summary="Send a delivery again",
    status_code=202,
    response_model=DeliveryView,
    responses={
        **documented(202, "It is due now, and its schedule begins anew.", example=DELIVERY),
        **problems(*ANYWHERE, e.DeliveryNotFound, e.DeliveryUnderWay),
    },
)
async def replay(delivery_id: DeliveryId, services: ServicesDep) -> Any:
    """For dead ones, for those that arrived and were lost behind the receiver, and to try a waiting one at once."""
    return json_answer(DeliveryView.of(await services.webhooks.replay(services.tenant, delivery_id)), 202)


@router.get(
    "/secrets",
    operation_id="listWebhookSecrets",
    summary="List the secrets that sign deliveries now",
    response_model=SecretList,
    responses={
        **documented(200, "Without the secrets themselves.", example={"secrets": [{**SECRET, "secret": None}]}),
        **problems(*ANYWHERE),
    },
)
async def secrets(services: ServicesDep) -> Any:
    """The newest first; those before it sign beside it until their time is over."""
    found = await services.webhooks.secrets(services.tenant)
    return json_answer(SecretList(secrets=[SecretView.of(each) for each in found]))


@router.post(
    "/secrets",
    operation_id="createWebhookSecret",
    summary="Make the first secret",
    status_code=201,
    response_model=SecretView,
    responses={
        **documented(201, "The secret: it is shown in this answer only.", example=SECRET),
        **problems(*ANYWHERE, e.WebhookSecretExists),
    },
)
async def create_secret(services: ServicesDep) -> Any:
    """Give it to the receivers of webhooks; jobs with a webhook are refused until there is one."""
    made = await services.webhooks.create_secret(services.tenant)
    return json_answer(SecretView.of(made[0], shown=True), 201)


@router.post(
    "/secrets/rotate",
    operation_id="rotateWebhookSecret",
    summary="Replace the secret by another",
    status_code=201,
    response_model=SecretList,
    responses={
        **documented(
            201, "All that sign now; the newest is shown in this answer only.", example={"secrets": [SECRET]}
        ),
        **problems(*ANYWHERE, e.WebhookSecretMissing),
    },
)
async def rotate_secret(
    services: ServicesDep,
    old_valid_s: Annotated[
        float | None,
        Query(
            ge=0,
            le=LONGEST_OVERLAP_S,
            allow_inf_nan=False,
            description="Seconds for which the ones before sign too; 0 ends a leaked one at once. Left out: "
            "IHVP_WEBHOOK_OVERLAP_S, a day.",
        ),
    ] = None,
) -> Any:
    """Until then each delivery carries a signature for each, so receivers can change over in their own time."""
    overlap_s = services.settings.webhook_overlap_s if old_valid_s is None else old_valid_s
    made = await services.webhooks.rotate_secret(services.tenant, overlap_s)
    views = [SecretView.of(each, shown=each is made[0]) for each in made]
    return json_answer(SecretList(secrets=views), 201)
