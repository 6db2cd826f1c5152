"""Options that several commands share, and the values that are typed into them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ihvp.errors import InvalidInput

if TYPE_CHECKING:
    from ihvp.client import Client
    from ihvp.settings import Settings

__all__ = [
    "CURVATURES",
    "METHODS",
    "DataDir",
    "JobArgument",
    "Json",
    "Strict",
    "Timeout",
    "Url",
    "connect",
    "damping_of",
    "pairs",
    "read_document",
    "settings_for",
    "value_of",
]

# Written out, since the enums come with pydantic and `--help` must be quick; a test holds that they agree.
METHODS = "direct, cg, minres, lissa, arnoldi, nystrom, kfac, ekfac, datainf or auto."
CURVATURES = "hessian, ggn, fisher, mc_fisher or empirical_fisher."

Url = Annotated[
    str | None, typer.Option("--url", help="Address of the service.", show_default="IHVP_URL or http://127.0.0.1:8000")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Strict = Annotated[bool, typer.Option("--strict", help="End with status 6 unless every certificate says converged.")]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Seconds to wait for the end of the job.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder of the service, unless IHVP_REDIS_URL is set.", show_default="ihvp-data"),
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]


def connect(url: str | None) -> Client:
    """A client of the service; what it needs is imported only now, so that `--help` is quick."""
    from ihvp.client import Client

    return Client(url)


def settings_for(data_dir: Path | None) -> Settings:
    """The settings of a command that goes to the store itself, of the service in a folder if one is named."""
    from ihvp.settings import get_settings

    settings = get_settings()
    return settings if data_dir is None else settings.model_copy(update={"data_dir": data_dir})


def value_of(text: str) -> Any:
    """A value as JSON where it is JSON, else the text itself: 1e-6 is a number, woodbury a word."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def damping_of(given: list[str] | None) -> float | str | dict[str, float] | None:
    """λ as ``--lambda`` gives it: one number, ``auto``, or any number of ``PATTERN=λ``; None if it was left out.

    Raises:
        InvalidInput: It is none of them.
    """
    if not given:
        return None
    if all("=" in text for text in given):
        # A pattern may hold a = of its own, a number cannot.
        return {text.rpartition("=")[0]: _number(text.rpartition("=")[2], text) for text in given}
    if len(given) > 1:
        raise InvalidInput(
            "Several --lambda are one for each pattern of parameter names.",
            given=", ".join(given),
            hint="For example --lambda '*=0.01' --lambda '2.*=0.1'; the last one that matches counts.",
        )
    return "auto" if given[0] == "auto" else _number(given[0], given[0])


def _number(text: str, given: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(
            "--lambda takes a number.", given=given, allowed="a number, auto, or PATTERN=number"
        ) from None


def pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """``["a=1", "b=2"]`` as a mapping.

    Raises:
        InvalidInput: One of them has no ``=``.
    """
    found = {}
    for pair in given or []:
        name, mark, value = pair.partition("=")
        if not mark or not name:
            raise InvalidInput(f"{option} takes name=value.", given=pair, hint=f"For example {option} run=42.")
        found[name] = value
    return found


def read_document(source: str) -> dict[str, Any]:
    """A JSON object from a file, or from standard input where the name is ``-``.

    Raises:
        InvalidInput: It is not a JSON object.
        OSError: It cannot be read.
    """
    text = typer.get_text_stream("stdin").read() if source == "-" else Path(source).read_text(encoding="utf-8")
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"{source} is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise InvalidInput(f"{source} does not hold a JSON object.", given=type(document).__name__)
    return document
