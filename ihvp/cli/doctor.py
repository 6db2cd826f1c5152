"""``ihvp doctor``: looks over this machine."""

from __future__ import annotations

import typer

from ihvp.cli.exit_codes import ExitCode
from ihvp.cli.options import Json

__all__ = ["add_to"]


def doctor(as_json: Json = False) -> None:
    """Check what the service needs here: Python, torch, device, store, port, disk, clock.

    What is wrong comes with the command that mends it. The settings are those of the environment (IHVP_*), so it looks
    at the service that [bold]ihvp up[/bold] would start from this shell. Ends with 2 where something keeps the service
    from working; a warning does not.

    Example: [cyan]ihvp doctor --json[/cyan]
    """
    from ihvp.cli.tables import finding_table, print_json, show
    from ihvp.doctor import Health, examine
    from ihvp.settings import get_settings

    findings = list(examine(get_settings()))
    if as_json:
        print_json(findings)
    else:
        show(finding_table(findings))
    if any(finding.health is Health.Fault for finding in findings):
        raise typer.Exit(ExitCode.InvalidInput)


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(doctor)
