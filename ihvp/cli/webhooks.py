"""``ihvp webhooks``: deliveries, replays, and the secrets that sign them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from ihvp.cli.options import Json, Url, connect
from ihvp.errors import InvalidInput

if TYPE_CHECKING:
    from ihvp.wire import SecretView

__all__ = ["add_to"]

STATES = ("pending", "delivered", "dead")

webhooks = typer.Typer(no_args_is_help=True, help="Deliveries of webhooks, and the secrets that sign them.")
secret = typer.Typer(no_args_is_help=True, help="The secrets that sign deliveries.")
webhooks.add_typer(secret, name="secret")


@webhooks.command()
def deliveries(
    state: Annotated[str | None, typer.Option(help="pending, delivered or dead: the dead-letter list.")] = None,
    job: Annotated[str | None, typer.Option(metavar="JOB", help="Only those of this job.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List deliveries, newest first.

    Example: [cyan]ihvp webhooks deliveries --state dead[/cyan]
    """
    if state is not None and state not in STATES:
        raise InvalidInput("A delivery has no such state.", given=state, allowed=", ".join(STATES))
    from ihvp.cli.tables import delivery_table, print_json, show

    with connect(url) as client:
        found = list(islice(client.webhooks.deliveries(state=state, job_id=job), limit))
    if as_json:
        print_json(found)
    else:
        show(delivery_table(found))


@webhooks.command()
def replay(
    delivery: Annotated[list[str], typer.Argument(metavar="DELIVERY...", help="Ids of deliveries.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Send deliveries again, or at once; their schedules begin anew.

    Example: [cyan]ihvp webhooks replay msg_01KAT5ZXQ6V5M9W3E8H2R7N4CD_1767607200120-0_finished[/cyan]
    """
    from ihvp.cli.tables import delivery_table, print_json, show

    with connect(url) as client:
        replayed = [client.webhooks.replay(each) for each in delivery]
    if as_json:
        print_json(replayed)
    else:
        show(delivery_table(replayed))


@secret.command("create")
def create_secret(url: Url = None, as_json: Json = False) -> None:
    """Make the first secret and print it, once.

    Example: [cyan]ihvp webhooks secret create[/cyan]
    """
    from ihvp.cli.tables import print_json

    with connect(url) as client:
        made = client.webhooks.create_secret()
    if as_json:
        print_json(made)
    else:
        _print_new(made)


@secret.command("rotate")
def rotate_secret(
    old_valid_s: Annotated[
        float | None,
        typer.Option(
            "--old-valid-s",
            min=0,
            help="Seconds for which the ones before sign too; 0 ends a leaked one at once.",
            show_default="IHVP_WEBHOOK_OVERLAP_S: a day",
        ),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make another secret and print it, once; the one before signs beside it for a while.

    Example: [cyan]ihvp webhooks secret rotate --old-valid-s 3600[/cyan]
    """
    from ihvp.cli.tables import print_json

    with connect(url) as client:
        made = client.webhooks.rotate_secret(old_valid_s)
    if as_json:
        print_json(made)
        return
    _print_new(made[0])
    for each in made[1:]:
        typer.echo(f"{each.id} signs beside it until {each.valid_until:%Y-%m-%d %H:%M:%S} UTC", err=True)


@secret.command("list")
def list_secrets(url: Url = None, as_json: Json = False) -> None:
    """List the secrets that sign deliveries now, without the secrets themselves.

    Example: [cyan]ihvp webhooks secret list[/cyan]
    """
    from ihvp.cli.tables import print_json, secret_table, show

    with connect(url) as client:
        found = client.webhooks.secrets()
    if as_json:
        print_json(found)
    else:
        show(secret_table(found))


def _print_new(made: SecretView) -> None:
    typer.echo(made.secret)
    typer.echo(f"{made.id}: give it to your receivers now; it is not shown again.", err=True)


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(webhooks, name="webhooks")
