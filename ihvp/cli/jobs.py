"""``ihvp submit``, ``status``, ``watch``, ``cancel`` and ``jobs``."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ihvp.cli.exit_codes import ExitCode
from ihvp.cli.options import (
    CURVATURES,
    METHODS,
    JobArgument,
    Json,
    Strict,
    Timeout,
    Url,
    connect,
    damping_of,
    file_or_reference,
    pairs,
    read_document,
    rows_of,
    value_of,
)
from ihvp.errors import InvalidInput

if TYPE_CHECKING:
    from ihvp.client import Client
    from ihvp.wire import JobView, PredictionView

__all__ = ["add_to"]


def submit(
    document: Annotated[
        str | None, typer.Argument(metavar="JOB.json", help="The whole submission as JSON; - is standard input.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="name@version, name@alias, or name: its latest.")
    ] = None,
    rhs: Annotated[str | None, typer.Option(help="Right-hand sides: npy or safetensors file, digest or URI.")] = None,
    gradient_of: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="INPUTS TARGETS", help="Instead: b is the loss gradient at each of these points."),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            "--rows",
            metavar="ROWS",
            help="With --gradient-of: of these points alone, 3,7 or 10:20 from 0, or a file with the numbers.",
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help=METHODS, show_default="cg")] = None,
    damping: Annotated[
        list[str] | None,
        typer.Option(
            "--lambda",
            metavar="λ",
            help="λ in (H + λI) x = b: a number, auto, or PATTERN=λ over parameter names, as often as needed.",
            show_default="0",
        ),
    ] = None,
    curvature: Annotated[str | None, typer.Option(help=f"What H is: {CURVATURES}", show_default="hessian")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option of the method.")
    ] = None,
    influence: Annotated[bool, typer.Option("--influence", help="Also score all training points.")] = False,
    tag: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A label to find it by.")] = None,
    priority: Annotated[str | None, typer.Option(help="low, normal or high.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds until the job expires.")] = None,
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="Who is told of its end: docs/webhooks.md.")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Makes one job however often it is submitted under this key."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Submit nothing; show what each method would take.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end, with a progress bar.")] = False,
    timeout: Timeout = None,
    strict: Strict = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Submit a job: (H + λI) x = b. Files are uploaded.

    Example: [cyan]ihvp submit -m digits-mlp@1 --rhs b.npy --lambda 0.01 -o rtol=1e-6 --wait[/cyan]

    With --dry-run nothing is submitted: it shows what each method would take.
    """
    given: dict[str, Any] = {
        "model": model,
        "rhs": _rhs(rhs, gradient_of, rows),
        "method": method,
        "hessian_perturbation": damping_of(damping),
        "curvature": curvature,
        "options": {name: value_of(value) for name, value in pairs(option, "--option").items()} or None,
        "influence": {"on": "training"} if influence else None,
        "tags": pairs(tag, "--tag") or None,
        "priority": priority,
        "deadline_s": deadline,
        "webhook": webhook,
    }
    if dry_run and wait:
        raise InvalidInput("--dry-run submits no job that --wait could wait for.", hint="Leave one of them out.")
    submission = _submission(document, given)
    with connect(url) as client:
        if dry_run:
            _show_prediction(client.predict(**submission), as_json=as_json)
            return
        job = client.submit(**submission, idempotency_key=idempotency_key)
        if wait:
            _follow(client, job, timeout=timeout, strict=strict, as_json=as_json)
            return
    _show(job, as_json=as_json)
    if not as_json:
        typer.echo(f"Follow it: ihvp watch {job.id}", err=True)


def status(job_id: JobArgument, url: Url = None, as_json: Json = False) -> None:
    """Show a job.

    Example: [cyan]ihvp status job_01KAT5ZXQ6V5M9W3E8H2R7N4CD[/cyan]
    """
    with connect(url) as client:
        _show(client.job(job_id), as_json=as_json)


def watch(
    job_id: JobArgument, timeout: Timeout = None, strict: Strict = False, url: Url = None, as_json: Json = False
) -> None:
    """Follow a job to its end, then show its certificates; with --json: one event a line.

    Example: [cyan]ihvp watch job_01KAT5ZXQ6V5M9W3E8H2R7N4CD[/cyan]
    """
    with connect(url) as client:
        job = client.job(job_id)
        if as_json:
            for event in client.events(job_id):
                typer.echo(event.model_dump_json())
            _end_as(client.job(job_id), strict=strict)
        else:
            _follow(client, job, timeout=timeout, strict=strict, as_json=False)


def cancel(job_id: JobArgument, url: Url = None, as_json: Json = False) -> None:
    """Cancel a job; it stops at its next iteration.

    Example: [cyan]ihvp cancel job_01KAT5ZXQ6V5M9W3E8H2R7N4CD[/cyan]
    """
    with connect(url) as client:
        _show(client.cancel(job_id), as_json=as_json)


def jobs(
    state: Annotated[
        str | None, typer.Option(help="queued, running, succeeded, failed, cancelled or expired.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Only of this method.")] = None,
    model: Annotated[str | None, typer.Option(help="Only on this model: name or name@version.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only with this label.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first.

    Example: [cyan]ihvp jobs --state running --tag run=42[/cyan]
    """
    from ihvp.cli.tables import job_table, print_json, show

    with connect(url) as client:
        listed = client.jobs(
            state=state, method=method, model=model, tags=pairs(tag, "--tag"), page_size=min(limit, 200)
        )
        found = list(islice(listed, limit))
    if as_json:
        print_json(found)
    else:
        show(job_table(found))


def _rhs(file: str | None, gradient_of: tuple[str, str] | None, rows: str | None) -> Any:
    if rows is not None and gradient_of is None:
        raise InvalidInput("--rows says which points of --gradient-of are meant.", hint="Give both.")
    if file is not None and gradient_of is not None:
        raise InvalidInput("Give --rhs or --gradient-of, not both.")
    if gradient_of is not None:
        inputs, targets = map(file_or_reference, gradient_of)
        index = rows_of(rows, "--rows")
        return {"gradient_of": {"inputs": inputs, "targets": targets} | ({} if index is None else {"index": index})}
    return file


def _submission(document: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of the document, and over them those that were given as options."""
    from ihvp.jobs.submission import JobSubmission

    submission = read_document(document) if document is not None else {}
    unknown = sorted(set(submission) - set(JobSubmission.model_fields))
    if unknown:
        allowed = ", ".join(sorted(JobSubmission.model_fields))
        raise InvalidInput("A submission has no such field.", given=", ".join(unknown), allowed=allowed)
    submission |= {name: value for name, value in given.items() if value is not None}
    missing = [option for name, option in (("model", "--model"), ("rhs", "--rhs")) if name not in submission]
    if missing:
        raise InvalidInput(f"A job needs {' and '.join(missing)}.", hint="Or a JSON file: ihvp submit job.json.")
    return submission


def _show_prediction(prediction: PredictionView, *, as_json: bool) -> None:
    from ihvp.cli.tables import prediction_details, print_json, show

    if as_json:
        print_json(prediction)
    else:
        show(*prediction_details(prediction))


def _show(job: JobView, *, as_json: bool) -> None:
    from ihvp.cli.tables import job_details, print_json, show

    if as_json:
        print_json(job)
    else:
        show(*job_details(job))


def _follow(client: Client, job: JobView, *, timeout: float | None, strict: bool, as_json: bool) -> None:
    from ihvp.client.progress import ProgressBar

    with ProgressBar() as bar:
        job = client.wait(job.id, timeout, bar.show)
    _show(job, as_json=as_json)
    _end_as(job, strict=strict)


def _end_as(job: JobView, *, strict: bool) -> None:
    """Ends the command as the job ended."""
    from ihvp.client.faults import raise_unless_succeeded
    from ihvp.methods import TerminationStatus

    raise_unless_succeeded(job)
    certificate = job.result.certificate if job.result else []
    if strict and any(entry.status is not TerminationStatus.Converged for entry in certificate):
        raise typer.Exit(ExitCode.NotConverged)


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (submit, status, watch, cancel, jobs):
        app.command()(command)
