"""``ihvp rerun``: a job once more, and whether the same comes out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ihvp.cli.exit_codes import ExitCode
from ihvp.cli.options import Json, Timeout, Url, connect

if TYPE_CHECKING:
    from ihvp.client.rerun import Rerun

__all__ = ["add_to"]


def rerun(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id, or a file with its result.")],
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Relative difference of x up to which both runs agree.")
    ] = 1e-3,
    strict: Annotated[bool, typer.Option("--strict", help="End with status 6 unless both runs agree.")] = False,
    timeout: Timeout = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Run a job again exactly as it was, and compare certificates and x.

    Model, data, right-hand sides, method, options and seed are those that its record has pinned; where a file is
    named (ihvp result JOB -o x.safetensors, or --json), those that are written there.

    Example: [cyan]ihvp rerun job_01KAT5ZXQ6V5M9W3E8H2R7N4CD[/cyan]
    """
    from ihvp.cli.tables import print_json, show
    from ihvp.client.progress import ProgressBar

    with connect(url) as client, ProgressBar() as bar:
        both = client.rerun(Path(job) if _is_file(job) else job, timeout, bar.show)
    agrees = both.agrees(tolerance)
    if as_json:
        print_json({**both.as_dict(), "tolerance": tolerance, "agrees": agrees})
    else:
        from ihvp.cli.comparison import comparison_table

        show(comparison_table(both))
        typer.echo("\n".join(_verdict(both, tolerance)))
    if strict and not agrees:
        raise typer.Exit(ExitCode.NotConverged)


def _is_file(job: str) -> bool:
    return Path(job).suffix in {".json", ".safetensors"} or Path(job).is_file()


def _verdict(both: Rerun, tolerance: float) -> list[str]:
    if both.first is None:
        return [f"There is no first result to compare with: {both.no_first}"]
    changed = [f"  {name}: {before} → {now}" for name, (before, now) in both.changed.items()]
    lines = ["What differs of the circumstances:", *changed] if changed else []
    finite = [found for found in both.differences if found is not None]
    if both.identical:
        return [*lines, "x is the same, bit for bit."]
    if not both.agrees(tolerance):
        worst = f"{max(finite):.2e}" if len(finite) == len(both.differences) else "not finite"
        return [*lines, f"x differs: largest relative difference {worst}, more than {tolerance:g}."]
    why = "" if changed else " Nothing that was recorded explains the last bits."
    return [*lines, f"x agrees: largest relative difference {max(finite):.2e}.{why}"]


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(rerun)
