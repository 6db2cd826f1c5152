"""``ihvp result``: what came out, and what it is worth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ihvp.cli.exit_codes import ExitCode
from ihvp.cli.options import JobArgument, Json, Strict, Url, connect
from ihvp.errors import InvalidInput

if TYPE_CHECKING:
    from ihvp.client import Client, SolveResult

__all__ = ["add_to"]


def result(
    job_id: JobArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write x to this .npy file, or with all that is said of it to a .safetensors file."
        ),
    ] = None,
    influence: Annotated[bool, typer.Option("--influence", help="Show the training points that matter.")] = False,
    projection: Annotated[
        str | None,
        typer.Option(
            help="Show the dot products of x with the rows of this .npy or .safetensors file or blob, and not x."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many of them, each way.")] = 3,
    strict: Strict = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show a result's certificates and save x; with --json, x is in the document up to 100,000 numbers.

    Example: [cyan]ihvp result job_01KAT5ZXQ6V5M9W3E8H2R7N4CD -o x.npy[/cyan]
    """
    if output is not None and output.suffix not in {".npy", ".safetensors"}:
        raise InvalidInput("The file's name says how x is written.", given=output.name, allowed=".npy, .safetensors")
    with connect(url) as client:
        if influence:
            _show_influence(client, job_id, top, as_json=as_json)
            return
        if projection is not None:
            _show_projection(client, job_id, projection, as_json=as_json)
            return
        solved = client.result(job_id)
    if output is not None:
        _save(solved, output)
    _show(solved, output, as_json=as_json)
    if strict and not solved.converged:
        raise typer.Exit(ExitCode.NotConverged)


def _save(solved: SolveResult, path: Path) -> None:
    from ihvp.client.saved_result import save_result
    from ihvp.client.uploads import tensor_bytes

    if path.suffix == ".npy":
        path.write_bytes(tensor_bytes(solved.x))
    else:
        save_result(solved, path)


def _show(solved: SolveResult, path: Path | None, *, as_json: bool) -> None:
    from ihvp.cli.tables import certificate_table, print_json, result_document, show

    if as_json:
        print_json(result_document(solved, path))
        return
    show(certificate_table(solved.certificate))
    shape = "×".join(map(str, solved.x.shape))
    typer.echo(f"x: {shape} {solved.x.dtype}" + (f", written to {path}" if path else ""))


def _show_influence(client: Client, job_id: str, top: int, *, as_json: bool) -> None:
    from ihvp.cli.tables import influence_table, print_json, show

    found = client.influence(job_id, top)
    if as_json:
        print_json(found)
    else:
        show(influence_table(found))


def _show_projection(client: Client, job_id: str, projection: str, *, as_json: bool) -> None:
    from ihvp.cli.tables import print_json, projection_table, show

    dots = client.project(job_id, projection)
    if as_json:
        print_json({"dots": [[number if math.isfinite(number) else None for number in row] for row in dots.tolist()]})
    else:
        show(projection_table(dots.tolist()))


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(result)
