"""``ihvp quarantine``: methods that are kept from models on which they killed worker after worker."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ihvp.cli.options import DataDir, Json, settings_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ihvp.jobs.store import Quarantined

__all__ = ["add_to"]

quarantine = typer.Typer(
    help="Methods that are kept from models on which they killed worker after worker. "
    "These commands go to the store itself, so they need no key.",
    no_args_is_help=True,
)


@quarantine.command("list")
def list_(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List what is in quarantine, since which job, and for how long yet.

    Example: [cyan]ihvp quarantine list --json[/cyan]
    """
    from ihvp.up.store_at_hand import jobs_at_hand

    with jobs_at_hand(settings_for(data_dir)) as store:
        _show(store.quarantined(), as_json)


@quarantine.command()
def lift(
    model: Annotated[str, typer.Argument(metavar="DIGEST", help="The model's digest, as the list has it.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let a model out, for every method; jobs on it run again from now on. Shows what was lifted.

    Example: [cyan]ihvp quarantine lift sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08[/cyan]
    """
    from ihvp.references import parse_digest
    from ihvp.up.store_at_hand import jobs_at_hand

    digest = parse_digest(model)
    with jobs_at_hand(settings_for(data_dir)) as store:
        _show(store.end_quarantine(digest), as_json)


def _show(found: Sequence[Quarantined], as_json: bool) -> None:
    from ihvp.cli.tables import print_json, quarantine_table, show

    if as_json:
        print_json({"quarantine": [asdict(each) for each in found]})
    else:
        show(quarantine_table(found))


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(quarantine, name="quarantine")
