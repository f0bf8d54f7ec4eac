"""`relay migrate`."""

from __future__ import annotations

import click

from relay.cli.call import Call, common, coroutine
from relay.cli.output import say, write_json


@click.command(short_help="Bring the database to this build's schema.")
@common
@coroutine
async def migrate(call: Call) -> None:
    """Bring the database schema to this build's revision. Several hosts may do so at once."""
    from relay.store import schema
    from relay.store.engine import Database

    url = call.settings.require_database_url()
    async with call.database_errors():
        await schema.migrate(url, retention_days=call.settings.retention_days)
        database = Database(url, pool_size=1, application_name="relay-cli")
        try:
            async with database.begin() as connection:
                status = await schema.revision_status(connection)
        finally:
            await database.close()
    if call.json:
        write_json({"revision": status.revision, "usable": status.usable, "reason": status.reason})
    else:
        say(f"the schema is at revision {status.revision}")
