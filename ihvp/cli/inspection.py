"""``ihvp inspect``: what a model is, whether it is trained, and what solving on it would cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ihvp.cli.options import (
    Architecture,
    Config,
    Dtype,
    Inputs,
    Json,
    Loss,
    Targets,
    Url,
    connect,
    read_document,
    spec_fields,
)
from ihvp.errors import InvalidInput
from ihvp.sources.uri import is_reference

if TYPE_CHECKING:
    from ihvp.client.inspection import Inspection

__all__ = ["add_to"]

CHECK_TIMEOUT_S = 120.0


def inspect(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="name@version or name; weights by URI, digest or file; or a JSON file with a spec, - for standard "
            "input.",
        ),
    ],
    architecture: Architecture = None,
    config: Config = None,
    inputs: Inputs = None,
    targets: Targets = None,
    loss: Loss = None,
    dtype: Dtype = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Whether a worker looks at the loss of 8 training points.")
    ] = True,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for that.")] = CHECK_TIMEOUT_S,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show a model's parameters, sizes, layout and loss, check that it is trained, and predict each method's cost.

    Nothing is registered; files that a spec names are uploaded. Weights alone need --inputs and --targets, and, where
    they are neither a folder in Hugging Face layout nor an export, --architecture and --loss.

    Example: [cyan]ihvp inspect digits-mlp@1[/cyan]
    """
    weights = reference if _names_weights(reference) else None
    fields = spec_fields(
        weights=weights,
        architecture=architecture,
        config=config,
        inputs=inputs,
        targets=targets,
        loss=loss,
        dtype=dtype,
    )
    model = _model(reference, fields)
    from ihvp.cli.tables import print_json

    with connect(url) as client:
        found = client.inspect(model, check=check, timeout=timeout)
    if as_json:
        print_json(found.as_dict())
        return
    from ihvp.cli.tables import prediction_details, show

    show(*_details(found), *prediction_details(found.prediction))


def _names_weights(reference: str) -> bool:
    return is_reference(reference) or Path(reference).suffix in {".safetensors", ".pt2"}


def _model(reference: str, fields: dict[str, Any]) -> str | dict[str, Any]:
    """What is inspected: a registered model by its name, or a spec."""
    if "weights" in fields:
        if "data" not in fields:
            raise InvalidInput(
                "Weights alone are no model: which data it was trained on has to be said too.",
                given=reference[:200],
                hint=f"Add {_what_else(reference, fields)}; or inspect a registered model, or a spec in a JSON file.",
            )
        return fields
    if reference == "-" or reference.endswith(".json") or Path(reference).is_file():
        return read_document(reference) | fields
    if fields:
        raise InvalidInput(
            "A registered model has its architecture, data and loss already.",
            given=f"{reference[:200]} and {', '.join(sorted(fields))}",
            hint="Leave the options out, or name weights by a URI, a digest or a file.",
        )
    return reference


def _what_else(weights: str, fields: dict[str, Any]) -> str:
    """The options that weights need, all at once rather than one by one as they are found wanting."""
    alone = weights.endswith(".safetensors")  # neither a folder with a config nor a program
    missing = ["--architecture with its --config"] if alone and "architecture" not in fields else []
    missing += ["--loss"] if alone and "loss" not in fields else []
    return ", ".join(["--inputs", "--targets", *missing])


def _details(found: Inspection) -> list[Any]:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ihvp.cli.tables import size_text

    spec = found.spec
    layout = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("parameter", "offset", "shape", "numbers"):
        layout.add_column(column, justify="right" if column in {"offset", "numbers"} else "left")
    ends = [*(entry.offset for entry in found.layout[1:]), found.num_params]
    for entry, end in zip(found.layout, ends, strict=True):
        shape = "×".join(map(str, entry.shape)) or "scalar"
        layout.add_row(entry.name, str(entry.offset), shape, str(end - entry.offset))
    loss = "the model's own" if spec.loss is None else spec.loss.type
    sizes = f"p = {found.num_params} numbers of {spec.dtype}, {size_text(found.nbytes)} a vector"
    return [
        f"{found.reference or 'not registered'} · {spec.kind} · digest {found.prediction.model.digest}",
        f"{sizes} · n = {found.prediction.num_points} training points · loss {loss}",
        layout,
        _said(found),
        "",
    ]


def _said(found: Inspection) -> str:
    """Whether it is trained, as far as a few points can tell."""
    checked = found.loss_check
    if checked is None:
        return f"loss check: none. {found.no_check or 'The worker is of an older version.'}"
    mean, gradient = (
        "not finite" if number is None else f"{number:.4g}" for number in (checked.mean_loss, checked.gradient_norm)
    )
    numbers = f"loss check on {checked.points} training points: mean loss {mean}, gradient norm {gradient}"
    if checked.mean_loss is None or checked.uninformed_loss is None:
        return numbers
    verdict = "better" if checked.mean_loss < checked.uninformed_loss else "no better: is it trained, on these data?"
    return f"{numbers}; the same answer for every point has {checked.uninformed_loss:.4g}, the model is {verdict}"


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(inspect)
