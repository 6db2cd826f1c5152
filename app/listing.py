"""Pages of jobs and of models, with the link to the next one."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ihvp.errors import ModelNotFound
from ihvp.jobs.states import JobState
from ihvp.jobs.store import JobFilter
from ihvp.methods import InversionMethod, parse_method
from ihvp.references import ModelRef
from ihvp.wire import JobPage, JobView, ModelPage, ModelView

if TYPE_CHECKING:
    from app.services import Services

__all__ = ["JobQuery", "list_jobs", "list_models", "next_page"]


def _known_method(name: str) -> str:
    return parse_method(name).value


def _readable_reference(text: str) -> str:
    ModelRef.parse(text)
    return text


def _as_rfc_3339(value: Any) -> Any:
    # Pydantic would take a bare number for seconds since 1970.
    if isinstance(value, str) and not re.match(r"\d{4}-\d{2}-\d{2}", value):
        raise ValueError("should be a date and time as RFC 3339 writes them")
    # An unescaped + in a query is a space: 10:00:00+01:00 arrives as 10:00:00 01:00.
    if isinstance(value, str) and value[-6:-5] == " " and value[-3:-2] == ":":
        return f"{value[:-6]}+{value[-5:]}"
    return value


def _in_utc(value: datetime) -> datetime:
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        return aware.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside the years 1 to 9999") from None


Moment = Annotated[datetime, BeforeValidator(_as_rfc_3339, json_schema_input_type=datetime), AfterValidator(_in_utc)]
TagPair = Annotated[str, Field(pattern=r"^[^:]{1,64}:[\s\S]{0,256}$", examples=["run:42"])]


class JobQuery(BaseModel):
    """The query of ``GET /v1/jobs``; an unknown parameter is an error."""

    model_config = ConfigDict(extra="forbid")

    state: JobState | None = Field(None, description="Only jobs in this state.")
    method: Annotated[
        str | None,
        AfterValidator(lambda name: name if name is None else _known_method(name)),
        Field(json_schema_extra={"enum": [*(m.value for m in InversionMethod), None]}),
    ] = None
    model: Annotated[
        str | None,
        AfterValidator(lambda text: text if text is None else _readable_reference(text)),
        Field(
            description="name, name@version or name@latest.",
            json_schema_extra={"pattern": r"^[a-z0-9][a-z0-9._-]{0,127}(@(latest|[1-9][0-9]{0,8}))?$"},
            examples=["house-prices@1"],
        ),
    ] = None
    tag: list[TagPair] = Field(default_factory=list, max_length=32, description="key:value; all have to be there.")
    created_after: Moment | None = Field(None, examples=["2026-01-05T10:00:00Z"])
    created_before: Moment | None = Field(None, examples=["2026-01-06T10:00:00Z"])
    limit: int = Field(20, ge=1, le=200)
    cursor: str | None = Field(None, pattern=r"^[0-9]{1,16}$", description="From `next`.")


async def list_jobs(services: Services, query: JobQuery) -> JobPage:
    """A page of the jobs that pass the filter."""
    model = query.model
    if model is not None and model.endswith("@latest"):
        try:
            model = (await services.models.get(ModelRef.parse(model))).reference
        except ModelNotFound:
            return JobPage(jobs=[], next=None)
    page = await services.jobs.list(
        JobFilter(
            state=query.state,
            method=None if query.method is None else InversionMethod(query.method),
            model=model,
            tags=dict(pair.split(":", 1) for pair in query.tag),
            created_after=query.created_after,
            created_before=query.created_before,
        ),
        limit=query.limit,
        cursor=query.cursor,
    )
    views = [JobView.of(job, page.places.get(job.id)) for job in page.jobs]
    return JobPage(jobs=views, next=next_page("/v1/jobs", query, page.cursor))


async def list_models(services: Services, limit: int, cursor: str | None) -> ModelPage:
    """A page of the latest versions, in order of names."""
    models, following = await services.models.list(limit=limit, cursor=cursor)
    query = urlencode({"limit": limit, "cursor": following or ""})
    return ModelPage(models=[ModelView.of(m) for m in models], next=f"/v1/models?{query}" if following else None)


def next_page(path: str, query: BaseModel, cursor: str | None) -> str | None:
    """The link to the page that a cursor begins, with the same filters; None at the end."""
    if cursor is None:
        return None
    kept = query.model_dump(mode="json", exclude_none=True, exclude={"cursor"})
    return f"{path}?{urlencode({**kept, 'cursor': cursor}, doseq=True)}"
