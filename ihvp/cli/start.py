"""``ihvp start``, ``prepare`` and ``healthy``: the parts of the service one by one, as containers run them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ihvp.cli.exit_codes import ExitCode
from ihvp.starting.roles import Role

__all__ = ["add_to"]

Part = Annotated[Role, typer.Argument(metavar="PART", help="api, worker, reconciler or webhooks.")]


def start(part: Part) -> None:
    """Start one part of the service in the place of this process, as containers and systemd do.

    Looks first whether the part can work here: settings, secrets, data directory, store, device, keys. What is wrong
    is one line and status 2. A store that is not there yet is waited for, IHVP_START_WAIT_S at most. All that the
    part needs to know is in its settings (IHVP_*); on one machine [bold]ihvp up[/bold] starts all parts.

    Example: [cyan]ihvp start worker[/cyan]
    """
    from ihvp.starting.start import start_part

    start_part(part, _tell)


def prepare() -> None:
    """Make the secrets that are missing, and see that the data directory takes files.

    Secrets are files in IHVP_SECRETS_DIR, by default /run/secrets; those that are there stay as they are. It may be
    run before each start.

    Example: [cyan]ihvp prepare[/cyan]
    """
    from ihvp.settings import get_settings
    from ihvp.starting.preparing import prepare

    prepare(get_settings(), typer.echo)


def healthy(part: Part) -> None:
    """Tell whether the part that was started here is alive: status 0 or 1 and one line. Made for healthchecks.

    The API is asked; the others touch a file as long as they do not hang. Whether jobs are taken is another question:
    [bold]/readyz[/bold] answers that.

    Example: [cyan]ihvp healthy worker[/cyan]
    """
    from ihvp.settings import get_settings
    from ihvp.starting.healthy import look

    alive, line = look(part, get_settings())
    typer.echo(line)
    if not alive:
        raise typer.Exit(ExitCode.Failed)


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(start)
    app.command()(prepare)
    app.command()(healthy)
