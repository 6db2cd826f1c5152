"""Options that several commands share, and the values that are typed into them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ihvp.errors import InvalidInput
from ihvp.sources.uri import is_reference

if TYPE_CHECKING:
    from ihvp.client import Client
    from ihvp.settings import Settings

__all__ = [
    "CURVATURES",
    "METHODS",
    "Architecture",
    "Config",
    "DataDir",
    "Dtype",
    "Inputs",
    "JobArgument",
    "Json",
    "Loss",
    "Strict",
    "Targets",
    "Timeout",
    "Url",
    "connect",
    "damping_of",
    "file_or_reference",
    "pairs",
    "read_document",
    "rows_of",
    "settings_for",
    "spec_fields",
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
Architecture = Annotated[str | None, typer.Option(help="linear, mlp, cnn, transformer-lm, transformers or a plug-in.")]
Config = Annotated[str | None, typer.Option(help="The architecture's config as JSON.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        help="Training inputs: file, digest or URI; where the model takes several, NAME=… for each argument of it."
    ),
]
Targets = Annotated[str | None, typer.Option(help="Training targets: npy file, digest or URI.")]
Loss = Annotated[str | None, typer.Option(help="cross_entropy, mse or bce_with_logits.")]
Dtype = Annotated[str | None, typer.Option(help="float32 or float64.")]
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


def _inputs(given: list[str]) -> str | Path | dict[str, str | Path]:
    """One file or reference, or several by name."""
    parts = [text.partition("=") for text in given]
    named = all(mark and name.isidentifier() for name, mark, _ in parts)
    if named and not (len(given) == 1 and Path(given[0]).is_file()):
        return {name: file_or_reference(value) for name, _, value in parts}
    if len(given) > 1:
        raise InvalidInput(
            "Several --inputs go by the names of the model's arguments.",
            given=", ".join(given)[:200],
            hint="For example --inputs input_ids=tokens.npy --inputs attention_mask=mask.npy.",
        )
    return file_or_reference(given[0])


def rows_of(given: str | None, option: str) -> list[int] | str | None:
    """Rows as ``3,7,10:20`` names them, the end of a range left out; or the reference or file that holds them.

    Raises:
        InvalidInput: They are written otherwise.
    """
    if given is None or is_reference(given) or Path(given).is_file():
        return given
    rows: list[int] = []
    for part in given.split(","):
        start, colon, end = part.strip().partition(":")
        if not start.isdecimal() or (colon and not (end.isdecimal() and int(start) < int(end))):
            raise InvalidInput(
                f"{option} takes row numbers, counted from 0, or a file that holds them.",
                given=given[:200],
                allowed="3,7 or 10:20 (20 left out), an npy or safetensors file, a digest or a URI",
            )
        rows += range(int(start), int(end)) if colon else [int(start)]
    return rows


def file_or_reference(value: str) -> str | Path:
    """A reference as it is; anything else is a file to upload."""
    return value if is_reference(value) else Path(value)


def spec_fields(
    *,
    weights: str | None,
    architecture: str | None,
    config: str | None,
    inputs: list[str] | None,
    targets: str | None,
    loss: str | None,
    dtype: str | None,
) -> dict[str, Any]:
    """The fields of a model's spec that were given as options.

    Raises:
        InvalidInput: Inputs were given without targets, or a config without an architecture.
    """
    if bool(inputs) != (targets is not None):
        raise InvalidInput("Give both --inputs and --targets, or neither.")
    if architecture is None and config is not None:
        raise InvalidInput("--config is that of an architecture.", hint="Give --architecture too.")
    fields: dict[str, Any] = {"loss": loss, "dtype": dtype}
    if weights is not None:
        fields["weights"] = file_or_reference(weights)
    if architecture is not None:
        fields["architecture"] = {"type": architecture, "config": value_of(config or "{}")}
    if inputs and targets is not None:
        fields["data"] = {"inputs": _inputs(inputs), "targets": file_or_reference(targets)}
    return {name: value for name, value in fields.items() if value is not None}


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
