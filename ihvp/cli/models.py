"""``ihvp models`` and ``ihvp methods``: what can be solved, and how."""

from __future__ import annotations

from typing import Annotated

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

__all__ = ["add_to"]

models = typer.Typer(invoke_without_command=True)


@models.callback()
def list_models(context: typer.Context, url: Url = None, as_json: Json = False) -> None:
    """List, show and register models; without a command: the latest version of each.

    Example: [cyan]ihvp models[/cyan]
    """
    if context.invoked_subcommand is not None:
        return
    from ihvp.cli.tables import model_table, print_json, show

    with connect(url) as client:
        found = list(client.models())
    if as_json:
        print_json(found)
    else:
        show(model_table(found))


@models.command("show")
def show_model(
    reference: Annotated[str, typer.Argument(metavar="MODEL", help="name or name@version.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show a model: its spec and where each parameter stands in b and x.

    Example: [cyan]ihvp models show digits-mlp@1[/cyan]
    """
    from ihvp.cli.tables import model_details, print_json, show

    with connect(url) as client:
        model = client.model(reference)
    if as_json:
        print_json(model)
    else:
        show(*model_details(model))


@models.command()
def register(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    spec: Annotated[str | None, typer.Option(help="JSON file with the whole spec; - is standard input.")] = None,
    architecture: Architecture = None,
    config: Config = None,
    weights: Annotated[str | None, typer.Option(help="safetensors file, .pt2 program, digest or URI.")] = None,
    inputs: Inputs = None,
    targets: Targets = None,
    loss: Loss = None,
    dtype: Dtype = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Register a version of a model; files are uploaded. The same spec again keeps its version.

    Example: [cyan]ihvp models register house-prices --architecture linear
    --config '{"in_features": 3, "out_features": 1}' --weights w.safetensors
    --inputs x.npy --targets y.npy --loss mse[/cyan]
    """
    from ihvp.cli.tables import print_json

    fields = spec_fields(
        weights=weights,
        architecture=architecture,
        config=config,
        inputs=inputs,
        targets=targets,
        loss=loss,
        dtype=dtype,
    )
    with connect(url) as client:
        model = client.register_model(name, None if spec is None else read_document(spec), **fields)
    if as_json:
        print_json(model)
    else:
        typer.echo(f"{model.reference}  {model.num_params} parameters, {model.num_points} training points")


@models.command()
def alias(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="name@version; with --drop, the name.")],
    name: Annotated[str | None, typer.Argument(metavar="ALIAS", help="Left out: lists the model's aliases.")] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Take the alias away; the version stays.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Name a version of a model, so that jobs can ask for name@alias; or list the names that it has.

    Jobs that were submitted before keep the version that the alias stood for then.

    Example: [cyan]ihvp models alias house-prices@3 champion[/cyan]
    """
    from ihvp.cli.tables import print_json

    with connect(url) as client:
        if name is None:
            found = client.aliases(model)
            lines = [f"{model}@{each}  version {version}" for each, version in found.items()]
        elif drop:
            client.drop_alias(model, name)
            found, lines = client.aliases(model), [f"{name} stands for nothing any more"]
        else:
            version = client.set_alias(model, name, client.model(model).version)
            found = client.aliases(version.name)
            lines = [f"{version.name}@{name} is version {version.version}"]
    if as_json:
        print_json(found)
    else:
        typer.echo("\n".join(lines) or "no aliases")


def methods(
    name: Annotated[str | None, typer.Argument(metavar="METHOD", help="Show the options of this one.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the inversion methods, or the options of one.

    Example: [cyan]ihvp methods cg[/cyan]
    """
    from ihvp.cli.tables import method_details, method_table, print_json, show
    from ihvp.methods import parse_method

    wanted = None if name is None else parse_method(name).value
    with connect(url) as client:
        found = [method for method in client.methods() if wanted in {None, method.method}]
    if as_json:
        print_json(found if wanted is None else found[0])
    elif wanted is None:
        show(method_table(found))
    else:
        show(*method_details(found[0]))


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(models, name="models")
    app.command()(methods)
