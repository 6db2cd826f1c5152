"""Puts the commands together, and turns every error into one message and an exit status."""

from __future__ import annotations

import inspect
import sys
from typing import Annotated, NoReturn

import typer

from ihvp import __version__
from ihvp.cli import (
    blobs,
    doctor,
    inspection,
    jobs,
    keys,
    models,
    plugin,
    quarantine,
    rerun,
    results,
    start,
    up,
    webhooks,
)
from ihvp.cli.exit_codes import ExitCode, exit_code_of
from ihvp.errors import IhvpError

__all__ = ["app", "main"]

EPILOG = (
    "Exit status: 0 done · 1 the job failed, or the service refused · 2 wrong usage or invalid input · "
    "3 not found or expired · 4 the service is unreachable or unavailable · 5 not done in time · "
    "6 --strict, and not every certificate says converged · 130 interrupted."
)

app = typer.Typer(
    name="ihvp",
    help="Certified inverse-Hessian-vector products of trained PyTorch models, as a service.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """The options of `ihvp` itself."""


up.add_to(app)
start.add_to(app)
jobs.add_to(app)
results.add_to(app)
rerun.add_to(app)
models.add_to(app)
inspection.add_to(app)
blobs.add_to(app)
keys.add_to(app)
webhooks.add_to(app)
quarantine.add_to(app)
plugin.add_to(app)
doctor.add_to(app)


def _flow(commands: typer.Typer) -> None:
    """Lets the paragraphs of help end their lines where the terminal does, and not where the docstrings do."""
    for each in commands.registered_commands:
        paragraphs = (inspect.getdoc(each.callback) or "").split("\n\n")
        each.help = "\n\n".join(" ".join(paragraph.splitlines()) for paragraph in paragraphs)
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _flow(group.typer_instance)


_flow(app)


def main() -> NoReturn:
    """Runs a command; ends the process with its exit status."""
    try:
        app(prog_name="ihvp")
    except IhvpError as error:
        _complain(error)
        sys.exit(exit_code_of(error))
    except OSError as error:
        # A file that is not there or not ours; what concerns the service is an IhvpError.
        sys.stderr.write(f"error: {error.filename or 'input/output'}: {error.strerror or error}\n")
        sys.exit(ExitCode.InvalidInput)
    except Exception as error:  # the last resort: a user is never shown a stack trace
        sys.stderr.write(f"error: {type(error).__name__}: {error}. This is a fault in ihvp; please report it.\n")
        sys.exit(ExitCode.Failed)
    sys.exit(ExitCode.Ok)


def _complain(error: IhvpError) -> None:
    lines = [f"error: {error} [{error.code}]", *getattr(error, "__notes__", [])]
    sys.stderr.write("\n  ".join(lines) + "\n")
