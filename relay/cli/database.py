"""`relay migrate` and `relay housekeeping`: what the owner of the schema does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from relay.cli.call import Call, common, coroutine
from relay.cli.failures import Failure
from relay.cli.filters import confirm
from relay.cli.output import say, warn, write_json

if TYPE_CHECKING:
    from relay.store.schema import RevisionStatus

# Another process that keeps house may be waiting for a transaction that has seen a partition.
_PATIENCE_SECONDS = 60.0


@click.command(short_help="Bring the database to this build's schema.")
@click.option(
    "--to",
    type=click.IntRange(1, 9999),
    metavar="REVISION",
    help="Go to this revision, up or down, instead of this build's own.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Change nothing; exit 1 when there is something to do, or no use in it.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask before going down.")
@common
@coroutine
async def migrate(call: Call, to: int | None, check: bool, yes: bool) -> None:
    """Bring the database schema to this build's revision. Several hosts may do so at once.

    Receivers and forwarders go on meanwhile. A schema that is newer already is left as it is. Going
    down (--to) drops what the later revisions have added, and what is stored in it.
    """
    from relay.store import schema

    if check and to is not None:
        raise click.UsageError("--check compares with this build's own revision: leave --to out")
    url = call.settings.require_database_url()
    async with call.database_errors():
        status = await call.revision_status()
        if not check:
            if to is not None and status.revision is not None and to < status.revision:
                confirm(_question(status.revision, to), yes=yes)
            await schema.migrate(
                url,
                "head" if to is None else f"{to:04}",
                retention_days=call.settings.retention_days,
                on_wait=lambda why: warn(f"{why}; trying again"),
            )
            status = await call.revision_status()
    if status.usable or check or to is not None or call.json:
        _write(call, status)
    if not status.usable and to is None:
        raise click.exceptions.Exit(1) if check else Failure(status.reason or "")


def _question(present: int, to: int) -> str:
    from relay.store.schema import revision_names

    undone = [f"{n} ({name})" for n, name in revision_names().items() if to < n <= present]
    return (
        f"go down to revision {to}? It drops what came with {', '.join(undone) or present},"
        " and what is stored in it."
    )


def _write(call: Call, status: RevisionStatus) -> None:
    from relay.store.schema import BUILD_REVISION

    if call.json:
        write_json(
            {
                "revision": status.revision,
                "build_revision": BUILD_REVISION,
                "usable": status.usable,
                "reason": status.reason,
            }
        )
        return
    newer = status.usable and (status.revision or 0) > BUILD_REVISION
    if status.reason is not None:
        say(status.reason)
    elif newer:
        say(f"the schema is at revision {status.revision}; this build, {BUILD_REVISION}, fits it")
    else:
        say(f"the schema is at revision {status.revision}")


@click.command(short_help="Partitions ahead, retention, pruning and seals, once.")
@common
@coroutine
async def housekeeping(call: Call) -> None:
    """Do once what processes that own the schema do by themselves: partitions, retention, seals.

    For cron, a systemd timer or a CronJob, where services run with lesser roles (`relay roles`):
    as a member of relay_migrator, once a day or more often.
    """
    import asyncpg

    from relay.janitor import Janitor
    from relay.store.partitions import count_overdue

    days = call.settings.retention_days
    names = ("partitions_made", "partitions_dropped", "rows_pruned", "sources_cleared")
    total = dict.fromkeys((*names, "rows_sealed"), 0)
    async with call.database() as database:
        janitor = Janitor(database, retention_days=days)
        while True:
            try:
                done = await janitor.run_in_turn(patience_seconds=_PATIENCE_SECONDS)
            except asyncpg.LockNotAvailableError as error:
                raise Failure(
                    f"another process has kept house for {_PATIENCE_SECONDS:.0f} s: try again later"
                ) from error
            counts = (done.made, done.dropped, done.pruned, done.discarded, done.sealed)
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
