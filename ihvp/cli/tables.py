"""How results look: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ihvp.methods import TerminationStatus
from ihvp.perturbation import describe

if TYPE_CHECKING:
    from ihvp.client import SolveResult
    from ihvp.doctor import Finding
    from ihvp.jobs.record import Certificate
    from ihvp.jobs.store import Quarantined
    from ihvp.keys.key import KeyRecord
    from ihvp.wire import DeliveryView, Influence, JobView, MethodView, ModelView, PredictionView, SecretView

__all__ = [
    "certificate_table",
    "delivery_table",
    "finding_table",
    "influence_table",
    "job_details",
    "job_table",
    "key_table",
    "method_details",
    "method_table",
    "model_details",
    "model_table",
    "prediction_details",
    "print_json",
    "quarantine_table",
    "result_document",
    "secret_table",
    "show",
    "size_text",
]

# In a pipe there is no screen to fit, and a cut id is of no use.
PIPE_WIDTH: Final = 400
INLINE_NUMBERS: Final = 100_000
GOOD: Final = frozenset({"active", "succeeded", "converged", "absolute_tolerance", "yes", "ok", "delivered"})
BAD: Final = frozenset(
    {"revoked", "expired", "failed", "non_finite", "breakdown", "negative_curvature", "no", "fault", "dead"}
)


def show(*parts: RenderableType) -> None:
    """Prints tables and text; what callers named may hold brackets, so markup is off."""
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, markup=False)
    for part in parts:
        console.print(part)


def print_json(value: BaseModel | Sequence[BaseModel] | dict[str, Any]) -> None:
    """Prints one JSON document."""
    if isinstance(value, BaseModel):
        typer.echo(value.model_dump_json(indent=2))
        return
    plain = value if isinstance(value, dict) else [item.model_dump(mode="json") for item in value]
    typer.echo(json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False))


def job_table(jobs: Iterable[JobView]) -> Table:
    """One line a job."""
    table = _table("job", "state", "model", "method", "curvature", "λ", "rhs", "worst residual", "created")
    for job in jobs:
        table.add_row(
            job.id,
            _coloured(job.state.value),
            job.model.reference or job.model.digest[:19],
            job.method,
            job.curvature,
            describe(job.hessian_perturbation),
            str(_columns(job.rhs)),
            _worst(job),
            _moment(job.created_at),
        )
    return table


def job_details(job: JobView) -> list[RenderableType]:
    """All that a person wants to know of a job."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    rows: dict[str, RenderableType] = {
        "job": job.id,
        "state": _coloured(job.state.value, " (cancel asked for)" if job.cancel_requested else ""),
        "model": f"{job.model.reference or job.model.digest} ({job.model.num_params} parameters)",
        "method": f"{job.method}, λ = {describe(job.hessian_perturbation)}",
        "curvature": "" if job.curvature == "hessian" else job.curvature,
        "right-hand sides": str(_columns(job.rhs)),
        "created": _moment(job.created_at),
        "started": _moment(job.started_at),
        "finished": _moment(job.finished_at),
        "attempt": str(job.attempt) if job.attempt > 1 else "",
        "before it": "" if job.queue_position is None else f"{job.queue_position} jobs",
        "expected": _expected(job),
        "iteration": str(job.progress.iteration) if job.progress and job.result is None else "",
        "tags": ", ".join(f"{name}={value}" for name, value in job.tags.items()),
        "told": "" if job.webhook is None else f"{job.webhook.url} ({', '.join(job.webhook.events)})",
        "error": _coloured(job.state.value, f" ({job.error.code}): {job.error.message}") if job.error else "",
        "try": (job.error.hint or "") if job.error else "",
    }
    for name, value in rows.items():
        if value:
            table.add_row(Text(name, style="dim"), value)
    return [table, *([certificate_table(job.result.certificate)] if job.result else [])]


def _expected(job: JobView) -> str:
    if job.eta is None or job.eta.starts_at is None:
        return ""
    ends = "" if job.eta.ends_at is None else f", to end {_moment(job.eta.ends_at)}"
    return f"to start {_moment(job.eta.starts_at)}{ends}"


def certificate_table(certificate: Sequence[Certificate]) -> Table:
    """One line a right-hand side."""
    table = _table("rhs", "status", "relative residual", "iterations", "what to do")
    for number, entry in enumerate(certificate):
        table.add_row(
            str(number),
            _coloured(entry.status.value),
            _number(entry.relative_residual),
            str(entry.iterations),
            entry.advice or "",
        )
    return table


def delivery_table(deliveries: Iterable[DeliveryView]) -> Table:
    """Deliveries, one a row, with how their last try went."""
    table = _table("delivery", "to", "state", "tries", "last answer", "next try")
    for each in deliveries:
        last = each.tries[-1] if each.tries else None
        said = "—" if last is None else str(last.status or last.error)
        due = "now" if each.sending else _moment(each.due_at)
        table.add_row(each.id, each.url, _coloured(each.state.value), str(each.attempts), said, due)
    return table


def secret_table(secrets: Iterable[SecretView]) -> Table:
    """Secrets by their ids."""
    table = _table("secret", "made", "signs until")
    for each in secrets:
        table.add_row(
            each.id, _moment(each.created_at), "—" if each.valid_until is None else _moment(each.valid_until)
        )
    return table


def finding_table(findings: Iterable[Finding]) -> Table:
    """One line a thing that was looked at."""
    table = _table("", "health", "found", "what mends it")
    for finding in findings:
        table.add_row(finding.subject, _coloured(finding.health.value), finding.found, finding.mend or "")
    return table


def key_table(keys: Iterable[KeyRecord]) -> Table:
    """One line an API key."""
    table = _table("key", "name", "tenant", "scope", "state", "created", "expires", "last used")
    for key in keys:
        table.add_row(
            key.id,
            key.name,
            key.tenant,
            key.scope.value,
            _coloured(key.state.value),
            _moment(key.created_at),
            _moment(key.expires_at),
            _moment(key.used_at),
        )
    return table


def quarantine_table(found: Iterable[Quarantined]) -> Table:
    """One line a method that is kept from a model."""
    table = _table("method", "model", "since job", "seconds left")
    for each in found:
        table.add_row(each.method, each.model_digest, each.job_id, f"{each.left_s:.0f}")
    return table


def influence_table(influence: Influence) -> Table:
    """The training points that matter, one line a right-hand side."""
    table = _table("rhs", "most helpful", "most harmful")
    for number, extremes in enumerate(influence.top):
        helpful, harmful = (
            ", ".join(f"{point.index} ({_number(point.score)})" for point in points)
            for points in (extremes.helpful, extremes.harmful)
        )
        table.add_row(str(number), helpful, harmful)
    return table


def projection_table(dots: Sequence[Sequence[float]]) -> Table:
    """Dot products, one line a right-hand side and row."""
    table = _table("rhs", "row", "x · row")
    for number, products in enumerate(dots):
        for row, dot in enumerate(products):
            table.add_row(str(number), str(row), _number(dot))
    return table


def model_table(models: Iterable[ModelView]) -> Table:
    """One line a model."""
    table = _table("model", "architecture", "parameters", "points", "dtype", "loss", "created")
    for model in models:
        spec = model.spec
        table.add_row(
            model.reference,
            spec.kind,
            str(model.num_params),
            str(model.num_points),
            spec.dtype,
            "its own" if spec.loss is None else spec.loss.type,
            _moment(model.created_at),
        )
    return table


def model_details(model: ModelView) -> list[RenderableType]:
    """A model and its layout."""
    layout = _table("parameter", "offset", "shape")
    for entry in model.layout:
        layout.add_row(entry.name, str(entry.offset), "×".join(map(str, entry.shape)) or "scalar")
    config = json.dumps({} if model.spec.architecture is None else model.spec.architecture.config)
    return [model_table([model]), f"  config {config}", f"  digest {model.digest}", layout]


def method_table(methods: Iterable[MethodView]) -> Table:
    """One line a method."""
    table = _table("method", "what it is", "guarantee", "cost")
    for method in methods:
        table.add_row(method.method, method.title, method.guarantee, method.cost)
    return table


def method_details(method: MethodView) -> list[RenderableType]:
    """A method and its options."""
    options = _table("option", "default", "meaning")
    for name, schema in method.options_schema.get("properties", {}).items():
        options.add_row(name, json.dumps(schema.get("default")), schema.get("description", ""))
    return [f"{method.method}: {method.title}", method.guarantee, method.cost, options]


def prediction_details(prediction: PredictionView) -> list[RenderableType]:
    """What a job would take, one line a method; the method asked for stands out."""
    table = _table("method", "fits", "memory", "seconds", "products", "rests on", "remark")
    for entry in prediction.predictions:
        table.add_row(
            Text(entry.method, style="bold" if entry.asked else ""),
            _coloured("no" if entry.refused or not entry.fits else "yes"),
            size_text(entry.bytes),
            f"{entry.seconds:.3g}",
            str(entry.products),
            entry.basis.replace("_", " "),
            entry.refused or ("asked for" if entry.asked else ""),
        )
    sizes = f"p = {prediction.model.num_params}, n = {prediction.num_points}, k = {prediction.columns}"
    system = f"{prediction.curvature}, λ = {describe(prediction.hessian_perturbation)}"
    start = "unknown" if prediction.starts_in_s is None else f"in about {prediction.starts_in_s:.3g} s"
    facts = {
        "memory budget": size_text(prediction.memory_budget),
        "jobs waiting": prediction.queue_length,
        "workers": prediction.workers,
        "start": start,
        "loading": "unknown" if prediction.load_s is None else f"{prediction.load_s:.3g} s once",
    }
    return [f"{sizes} · {system}", table, " · ".join(f"{name} {value}" for name, value in facts.items())]


def result_document(solved: SolveResult, path: Path | None) -> dict[str, Any]:
    """A result as JSON: x where it is small enough, null where it is not a number."""
    x = None
    if solved.x.size <= INLINE_NUMBERS:
        x = _finite(solved.x.tolist())
    return {
        "job_id": solved.job_id,
        "x": x,
        "shape": list(solved.x.shape),
        "dtype": str(solved.x.dtype),
        "output": None if path is None else str(path),
        "digest": solved.digest,
        "info": solved.info.model_dump(mode="json"),
        "provenance": solved.provenance.model_dump(mode="json"),
    }


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0)
    return table


def _coloured(word: str, more: str = "") -> Text:
    text = Text(word, style="green" if word in GOOD else "red" if word in BAD else "yellow")
    return text.append(more, style="default")


def _columns(rhs: dict[str, Any]) -> int:
    shape = rhs.get("shape", [])
    return int(shape[0]) if len(shape) == 2 else 1


def _worst(job: JobView) -> str:
    if job.result is None:
        return ""
    entries = job.result.certificate
    if any(entry.status is TerminationStatus.NonFinite or entry.relative_residual is None for entry in entries):
        return "not finite"
    return _number(max((entry.relative_residual or 0.0 for entry in entries), default=0.0))


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2e}"


def size_text(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def _moment(value: datetime | None) -> str:
    return "" if value is None else value.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value if math.isfinite(value) else None
