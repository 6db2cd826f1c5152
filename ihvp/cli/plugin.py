"""``ihvp plugin``: architectures of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["add_to"]

plugin = typer.Typer(no_args_is_help=True, help="Architectures of your own.")


@plugin.command()
def new(
    name: Annotated[str, typer.Argument(help="The architecture's type, such as two-towers.")],
    into: Annotated[Path, typer.Option(help="Folder in which the package's folder is made.")] = Path(),
) -> None:
    """Make a small package with an architecture, its entry point, and a test that inherits ihvp's contract.

    Example: [cyan]ihvp plugin new two-towers[/cyan]
    """
    from ihvp.plugins import new_plugin

    for path in new_plugin(name, into):
        typer.echo(str(path))
    typer.echo(f"Next: {into / name}/README.md says how to install and test it.", err=True)


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(plugin, name="plugin")
