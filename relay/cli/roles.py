"""`relay roles`: least privilege in PostgreSQL."""

from __future__ import annotations

import click

from relay.cli.call import Call, common, coroutine
from relay.cli.output import say, warn, write_json, write_table


@click.group(short_help="Roles of the database, for least privilege.")
def roles() -> None:
    """Roles of the database: one for each kind of process, and what it may do."""


@roles.command("apply")
@common
@coroutine
async def apply_roles(call: Call) -> None:
    """Make the roles, give relay_migrator the schema, and grant each what it needs.

    RELAY_DATABASE_URL is of a role with CREATEROLE (a superuser, or the administrator of a managed
    server). Again is harmless. Logins are yours to make:

    CREATE ROLE shop_receiver LOGIN PASSWORD '…' IN ROLE relay_receiver
    """
    from relay.store import roles as store

    async with call.database_errors():
        groups = await store.apply(call.settings.require_database_url())
        status = await call.revision_status()
    if not status.usable:
        warn(f"{status.reason}, as a member of relay_migrator; that grants the rights, too")
    rows = [{"role": group.name, "members": group.members} for group in groups]
    if call.json:
        write_json(rows)
        return
    write_table(rows, ("role", "members"), "")
    if not any(group.members for group in groups):
        say()
        say("Now make logins: CREATE ROLE shop_receiver LOGIN PASSWORD '…' IN ROLE relay_receiver")


@roles.command()
@common
def sql(call: Call) -> None:
    """The same as a script, for psql and whoever may not run programs on the server.

    It needs no settings: relay roles sql | psql -v ON_ERROR_STOP=1 …
    """
    from relay.store import roles as store

    if call.json:
        write_json({"sql": store.script()})
    else:
        click.echo(store.script(), nl=False)
