"""`relay migrate` and `relay housekeeping`: what the owner of the schema does."""

from __future__ import annotations

import click

from relay.cli.call import Call, common, coroutine
from relay.cli.failures import Failure
from relay.cli.output import say, warn, write_json

# Another process that keeps house may be waiting for a transaction that has seen a partition.
_PATIENCE_SECONDS = 60.0


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


@click.command(short_help="Partitions ahead, retention and pruning, once.")
@common
@coroutine
async def housekeeping(call: Call) -> None:
    """Do once what processes that own the schema do by themselves: partitions, retention, pruning.

    For cron, a systemd timer or a CronJob, where services run with lesser roles (`relay roles`):
    as a member of relay_migrator, once a day or more often.
    """
    import asyncpg

    from relay.janitor import Janitor
    from relay.store.partitions import count_overdue

    days = call.settings.retention_days
    total = {"partitions_made": 0, "partitions_dropped": 0, "rows_pruned": 0, "sources_cleared": 0}
    async with call.database() as database:
        janitor = Janitor(database, retention_days=days)
        while True:
            try:
                done = await janitor.run_in_turn(patience_seconds=_PATIENCE_SECONDS)
            except asyncpg.LockNotAvailableError as error:
                raise Failure(
                    f"another process has kept house for {_PATIENCE_SECONDS:.0f} s: try again later"
                ) from error
            counts = (done.made, done.dropped, done.pruned, done.discarded)
            for name, count in zip(total, counts, strict=True):
                total[name] += count
            if not done.done or not done.is_whole:
                break
        async with database.begin() as connection:
            overdue = await count_overdue(connection, retention_days=days)
    if call.json:
        write_json({**total, "partitions_overdue": overdue, "complete": done.is_whole})
    else:
        for name, count in total.items():
            say(f"{name.replace('_', ' '):<20}{count}")
        if overdue:
            warn(f"{overdue} partitions are past the retention: something unfinished holds them")
    if not done.is_whole:
        raise Failure(
            f"the role of {call.database_place} may only make partitions: dropping and pruning take"
            " a member of relay_migrator, or whoever owns the schema"
        )
