"""``ihvp keys``: who may call the service."""

from __future__ import annotations

from typing import Annotated

import typer

from ihvp.cli.options import DataDir, Json, settings_for

__all__ = ["add_to"]

keys = typer.Typer(
    help="Make, list and revoke API keys. These commands go to the store itself, so they need no key.",
    no_args_is_help=True,
)

DAY_S = 24 * 3600


@keys.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who will have it, for lists.")],
    scope: Annotated[str, typer.Option(help="read, submit or admin; each allows what those before it do.")] = "submit",
    tenant: Annotated[str, typer.Option(help="Whose jobs, models and blobs it shows and makes.")] = "default",
    days: Annotated[
        float | None, typer.Option(min=0, help="Days after which it expires.", show_default="never")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it. It is shown this once: the store keeps a hash of it.

    With the first key, the service answers nobody without one, from two seconds later on.

    Example: [cyan]ihvp keys create dashboard --scope read --tenant acme --days 90[/cyan]
    """
    from ihvp.cli.tables import print_json
    from ihvp.errors import InvalidInput
    from ihvp.keys.key import KeySpec, Scope, Secret
    from ihvp.tenants import parse_tenant
    from ihvp.up.store_at_hand import keys_at_hand

    scopes = [each.value for each in Scope]
    if scope not in scopes:
        raise InvalidInput("There is no such scope.", given=scope[:100], allowed=", ".join(scopes))
    if not 1 <= len(name) <= 100:
        raise InvalidInput("A key needs a name.", given=f"{len(name)} characters", allowed="1 to 100 characters")
    if days == 0:
        raise InvalidInput("A key has to last for a while.", given="--days 0", allowed="more than 0")
    drawn = Secret.draw()
    spec = KeySpec(name=name, tenant=parse_tenant(tenant), scope=Scope(scope), sha256=drawn.sha256)
    with keys_at_hand(settings_for(data_dir)) as store:
        made = store.create(drawn.id, spec, expires_s=None if days is None else days * DAY_S)
    if as_json:
        print_json({"key": str(drawn), **made.model_dump(mode="json", exclude={"sha256"})})
    else:
        # Alone on standard output, so that a shell can take it.
        typer.echo(f"Key {made.id} ({made.scope.value}, tenant {made.tenant}); it is not shown again:", err=True)
        typer.echo(str(drawn))


@keys.command("list")
def list_(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List all keys, revoked and expired ones too; none of them can be read again.

    Example: [cyan]ihvp keys list --json[/cyan]
    """
    from ihvp.cli.tables import key_table, print_json, show
    from ihvp.up.store_at_hand import keys_at_hand

    with keys_at_hand(settings_for(data_dir)) as store:
        found = store.list()
    if as_json:
        print_json({"keys": [key.model_dump(mode="json", exclude={"sha256"}) for key in found]})
    else:
        show(key_table(found))


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="The key's id: the part between the two underscores.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Have a key open nothing any more, within two seconds. Revoking the last one does not open the service to all.

    Example: [cyan]ihvp keys revoke 3f9a1c22b0d4[/cyan]
    """
    from ihvp.cli.tables import key_table, print_json, show
    from ihvp.up.store_at_hand import keys_at_hand

    # Whoever pastes the whole key means that one.
    key_id = key.split("_")[1] if key.startswith("ihvp_") else key
    with keys_at_hand(settings_for(data_dir)) as store:
        revoked = store.revoke(key_id)
    if as_json:
        print_json(revoked.model_dump(mode="json", exclude={"sha256"}))
    else:
        show(key_table([revoked]))


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(keys, name="keys")
