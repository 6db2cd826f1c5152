"""``ihvp blobs``: uploads."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ihvp.cli.options import Json, Url, connect
from ihvp.cli.upload_bar import UploadBar

__all__ = ["add_to"]

blobs = typer.Typer(help="Upload tensors.", no_args_is_help=True)


@blobs.command()
def put(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="npy or safetensors files.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Upload files and print their digests, by which models and jobs refer to them.

    Example: [cyan]ihvp blobs put weights.safetensors inputs.npy[/cyan]
    """
    with connect(url) as client, UploadBar() as bar:
        digests = {str(file): client.put_blob(file, partial(bar.show, file.name)) for file in files}
    if as_json:
        typer.echo(json.dumps(digests))
    else:
        for file, digest in digests.items():
            typer.echo(f"{digest}  {file}")


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(blobs, name="blobs")
