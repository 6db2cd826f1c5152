"""What the API answers, as the server writes it and the client reads it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ihvp.jobs.outlook import Eta, Place, Unknown
from ihvp.jobs.record import JobError, JobRecord, Progress, ResultSummary
from ihvp.jobs.states import JobState
from ihvp.jobs.submission import Priority
from ihvp.models.spec import LayoutEntry, ModelRecord, ModelSpec
from ihvp.perturbation import Perturbation
from ihvp.references import ModelName
from ihvp.results import Provenance, ResultInfo
from ihvp.webhooks.record import Delivery, DeliveryState, DeliveryTry, Secret
from ihvp.webhooks.spec import WebhookSpec

__all__ = [
    "BlobView",
    "DeliveryPage",
    "DeliveryView",
    "EtaView",
    "Influence",
    "InfluenceExtremes",
    "InfluencePoint",
    "JobModel",
    "JobPage",
    "JobView",
    "MethodList",
    "MethodPrediction",
    "MethodView",
    "ModelPage",
    "ModelRegistration",
    "ModelView",
    "PredictionView",
    "ProblemDetails",
    "ProjectionView",
    "Readiness",
    "ResultView",
    "SecretList",
    "SecretView",
]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class ProblemDetails(_View):
    """An error, as RFC 9457 says, with ihvp's stable code and next step."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = Field("about:blank", description="URI reference of the code's documentation.")
    title: str
    status: int
    detail: str = Field(description="The whole message: what was given, what is allowed, what to try.")
    code: str
    given: Any | None = None
    allowed: Any | None = None
    hint: str | None = None
    errors: list[dict[str, Any]] | None = Field(None, description="For validation errors: one entry a field.")
    request_id: str | None = None


class JobModel(_View):
    """The model a job runs on."""

    reference: str | None
    digest: str
    num_params: int


class EtaView(_View):
    """When a waiting job is expected to start and to end, by what the last jobs took. Changes when the queue moves."""

    starts_at: datetime | None
    ends_at: datetime | None
    unknown: Unknown | None = Field(
        description="Why a time is null: `no_live_worker`, or `nothing_measured` before a first job has ended."
    )

    @classmethod
    def of(cls, eta: Eta) -> EtaView:
        """The view of what the store expects."""
        return cls(starts_at=eta.starts_at, ends_at=eta.ends_at, unknown=eta.unknown)


class JobView(_View):
    """A job as callers see it."""

    id: str
    state: JobState
    revision: int
    attempt: int
    model: JobModel
    method: str
    hessian_perturbation: Perturbation
    options: dict[str, Any]
    curvature: str
    rhs: dict[str, Any] = Field(description="Where the right-hand sides come from, and their shape.")
    influence: dict[str, Any] | None
    priority: Priority
    deadline_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    queue_position: int | None
    eta: EtaView | None = Field(None, description="Of a waiting job; a running one has progress.eta_s.")
    cancel_requested: bool
    progress: Progress | None
    result: ResultSummary | None
    error: JobError | None
    tags: dict[str, str]
    webhook: WebhookSpec | None = Field(
        None, description="Who is told about it; `links.deliveries` says how that went."
    )
    links: dict[str, str]

    @classmethod
    def of(cls, job: JobRecord, place: Place | None) -> JobView:
        """The view of a record."""
        request = job.request
        base = f"/v1/jobs/{job.id}"
        links = {"self": base, "events": f"{base}/events", "cancel": f"{base}/cancel"}
        if job.result is not None and not job.result_removed:
            links["result"] = f"{base}/result"
            if job.result.influence_digest is not None:
                links["influence"] = f"{base}/influence"
        if request.webhook is not None:
            links["deliveries"] = f"/v1/webhooks/deliveries?job={job.id}"
        if request.model.reference is not None:
            links["model"] = f"/v1/models/{request.model.reference.replace('@', '/')}"
        return cls(
            **job.model_dump(
                include={
                    "id", "state", "revision", "attempt", "deadline_at", "created_at", "started_at",
                    "finished_at", "cancel_requested", "progress", "result", "error",
                }
            ),
            model=JobModel(**request.model.model_dump(include={"reference", "digest", "num_params"})),
            **request.model_dump(
                include={
                    "method", "hessian_perturbation", "options", "curvature", "rhs", "influence", "priority", "tags",
                    "webhook",
                }
            ),
            queue_position=None if place is None else place.queue_position,
            eta=None if place is None else EtaView.of(place.eta),
            links=links,
        )  # fmt: skip


class JobPage(_View):
    """Jobs, newest first."""

    jobs: list[JobView]
    next: str | None = Field(description="Link to the next page; null at the end.")


class MethodPrediction(_View):
    """What one method would take for a job."""

    method: str
    asked: bool = Field(description="Whether the submission names it; the others are predicted with their defaults.")
    bytes: int = Field(
        description="Of vectors and factors at their peak; what speeds up products is cut to what the budget leaves."
    )
    fits: bool = Field(description="Whether these are within the memory budget.")
    seconds: float = Field(
        description="On a worker that has the model loaded, to certified solutions, and scores where asked for."
    )
    products: int = Field(description="Hessian-vector products, over all points, counted in vectors.")
    basis: Literal["this_model", "other_models", "default"] = Field(
        description="What the seconds rest on: measurements of this very model and curvature, those of other models "
        "scaled by p and n, or nothing that was measured here."
    )
    refused: str | None = Field(
        description="Why a submission with this method would be refused; null if it would not."
    )


class PredictionView(_View):
    """What a job would take, by each method; nothing was created."""

    model: JobModel
    layout: list[LayoutEntry] = Field(default_factory=list, description="Where each parameter stands in b and x.")
    num_points: int
    columns: int = Field(description="Right-hand sides.")
    curvature: str
    hessian_perturbation: Perturbation
    memory_budget: int = Field(description="Bytes that a solve may plan for.")
    queue_length: int = Field(description="Jobs that wait now.")
    workers: int = Field(description="Live workers.")
    starts_in_s: float | None = Field(
        description="Seconds until it would be taken, at the pace of the last jobs; null if unknown."
    )
    ends_in_s: float | None = Field(None, description="Seconds until it would be done; null if unknown.")
    unknown: Unknown | None = Field(None, description="Why one of these is null.")
    load_s: float | None = Field(
        description="Seconds more on a worker that has to load the model first; null if none has yet."
    )
    kept_bytes: int | None = Field(description="What a worker that has this model warm was last seen to keep for it.")
    predictions: list[MethodPrediction]

    @property
    def asked(self) -> MethodPrediction:
        """The prediction for the method that the submission names."""
        return next(entry for entry in self.predictions if entry.asked)


class ModelRegistration(ModelSpec):
    """The body of ``POST /v1/models``: a spec under a name."""

    name: ModelName

    @property
    def spec(self) -> ModelSpec:
        """The spec without the name."""
        return ModelSpec.model_validate(self.model_dump(exclude={"name"}))


class ModelView(_View):
    """A registered version of a model."""

    name: str
    version: int
    reference: str
    digest: str
    num_params: int
    num_points: int
    layout: list[LayoutEntry]
    spec: ModelSpec
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def of(cls, model: ModelRecord) -> ModelView:
        """The view of a record."""
        base = f"/v1/models/{model.name}"
        return cls(
            **model.model_dump(),
            reference=model.reference,
            links={"self": f"{base}/{model.version}", "versions": base},
        )


def _whole(value: Any) -> Any:
    # JSON knows one kind of numbers: 3.0 is the integer 3.
    return int(value) if isinstance(value, float) and value.is_integer() else value


class ModelAlias(BaseModel):
    """The body of ``PUT /v1/models/{name}/aliases/{alias}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, BeforeValidator(_whole)] = Field(
        ge=1, lt=10**9, strict=True, description="What the alias is to stand for.", examples=[1]
    )


class ModelPage(_View):
    """Models in order of their names, or versions of one, newest first."""

    models: list[ModelView]
    next: str | None = None
    aliases: dict[str, int] = Field(
        default_factory=dict, description="Of the versions of one model: the version that each alias stands for."
    )


class BlobView(_View):
    """A stored blob."""

    digest: str
    size: int
    href: str


class MethodView(_View):
    """A method as ``GET /v1/methods`` describes it."""

    method: str
    title: str
    guarantee: str
    cost: str
    exact: bool = Field(description="Whether it can reach any tolerance the dtype holds.")
    options_schema: dict[str, Any] = Field(description="JSON Schema of its options.")


class MethodList(_View):
    """All methods."""

    methods: list[MethodView]


class ResultView(_View):
    """A result as JSON."""

    x: list[float | None] | list[list[float | None]] | None = Field(
        description="The shape of the right-hand side that was sent; null above the inline limit: follow x_href."
    )
    x_href: str
    shape: list[int]
    dtype: str
    info: ResultInfo
    provenance: Provenance
    digest: str


class ProjectionView(_View):
    """Dot products of a job's solutions with the rows of a blob, instead of the solutions."""

    dots: list[list[float | None]] = Field(
        description="[k, m], summed in float64: a row for each right-hand side, a column for each row of the blob."
    )
    shape: list[int] = Field(description="[k, m].")
    projection: str = Field(description="The blob.")
    job_id: str
    digest: str = Field(description="Of the result.")


class InfluencePoint(_View):
    """A training point and its score."""

    index: int
    score: float | None


class InfluenceExtremes(_View):
    """The training points that matter most for one right-hand side."""

    helpful: list[InfluencePoint] = Field(description="Largest scores first: up-weighting lowers the test loss.")
    harmful: list[InfluencePoint] = Field(description="Smallest scores first: up-weighting raises it.")


class Influence(_View):
    """Scores s = ∇L(t)ᵀ (H+λI)⁻¹ ∇L(z) of the training points z."""

    scores: list[list[float | None]] | None = Field(description="[k, n]; null above the inline limit.")
    scores_href: str
    shape: list[int]
    top: list[InfluenceExtremes] = Field(description="One entry a right-hand side.")


class Readiness(_View):
    """Whether the service can take and finish a job."""

    ready: bool
    store: str = Field(description="ok, or what is wrong.")
    broker: str = Field(description="ok, or what is wrong.")
    workers: int = Field(description="Live workers.")
    chain: str = Field(description="Whether messages reach a worker by way of the broker: ok, or what is known.")


class DeliveryView(_View):
    """An event of a job on its way to a receiver."""

    id: str = Field(description="The header webhook-id: the same for all tries.")
    job_id: str
    type: str = Field(examples=["job.finished"])
    url: str
    state: DeliveryState
    occurred_at: datetime
    due_at: datetime | None = Field(description="When it is tried next; null while it is being sent, and at its end.")
    ended_at: datetime | None = Field(description="When it arrived, or was given up.")
    sending: bool = Field(description="Whether it is being sent right now.")
    attempts: int = Field(description="How often it was tried, over all replays.")
    tries: list[DeliveryTry] = Field(description="The last 50 of them.")
    links: dict[str, str]

    @classmethod
    def of(cls, delivery: Delivery) -> DeliveryView:
        """The view of a record."""
        base = f"/v1/webhooks/deliveries/{delivery.id}"
        return cls(
            **delivery.model_dump(exclude={"tenant", "created_at", "attempt", "round", "tries"}),
            attempts=delivery.attempt,
            tries=delivery.tries,
            links={"self": base, "replay": f"{base}/replay", "job": f"/v1/jobs/{delivery.job_id}"},
        )


class DeliveryPage(_View):
    """Deliveries, newest first."""

    deliveries: list[DeliveryView]
    next: str | None = Field(description="Link to the next page; null at the end.")


class SecretView(_View):
    """A secret that deliveries are signed with."""

    id: str
    created_at: datetime
    valid_until: datetime | None = Field(description="Until when it still signs; null for the newest.")
    secret: str | None = Field(None, description="The secret itself: shown once, in the answer that made it.")

    @classmethod
    def of(cls, secret: Secret, *, shown: bool = False) -> SecretView:
        """The view of a secret."""
        return cls(**secret.model_dump(exclude={"secret"}), secret=secret.secret if shown else None)


class SecretList(_View):
    """The secrets that deliveries are signed with now, the newest first."""

    secrets: list[SecretView]
