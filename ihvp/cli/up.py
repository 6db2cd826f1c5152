"""``ihvp up``: the whole service in one foreground command."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["add_to"]


def up(
    host: Annotated[str | None, typer.Option(help="Address to bind.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.", show_default="8000")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of jobs, blobs and logs; made if missing.", show_default="ihvp-data")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers; they share the cores.", show_default="1")
    ] = None,
) -> None:
    """Run the whole service: store, API, workers, reconciler.

    The first line printed is [bold]ready http://HOST:PORT[/bold], once a job would be taken. Parts that die are
    restarted. Ctrl-C stops everything within 10 s and loses nothing. IHVP_REDIS_URL replaces the embedded store.

    Example: [cyan]ihvp up --port 0 --data-dir /tmp/ihvp[/cyan]
    """
    from ihvp.settings import get_settings
    from ihvp.up.parts import UpOptions
    from ihvp.up.service import run_service

    settings = get_settings()
    options = UpOptions(
        host=settings.host if host is None else host,
        port=settings.port if port is None else port,
        data_dir=settings.data_dir if data_dir is None else data_dir,
        workers=settings.workers if workers is None else workers,
    )
    run_service(options, _tell, _warn)


def _tell(line: str) -> None:
    # Whoever started us may have read the first line only and gone; the service goes on.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _warn(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(up)
