"""`relay snapshot`: backfills from the Stripe API."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from relay.cli.call import Call, common, coroutine
from relay.cli.completion import source_names
from relay.cli.durations import moment_of_flag
from relay.cli.failures import Failure
from relay.cli.output import say, warn, write_fields, write_json, write_table
from relay.cli.snapshot_watch import watch
from relay.cli.stripe_key import try_key
from relay.display import duration

if TYPE_CHECKING:
    from relay.store.engine import Database
    from relay.store.snapshots import Action

_LIST = ("id", "source", "state", "resources", "objects", "pages", "started_at", "took")
_PROGRESS = ("resource", "state", "objects", "pages", "read", "limited", "waits_for", "last_error")


@click.group(short_help="Backfills from the Stripe API.")
def snapshot() -> None:
    """Backfills: the objects that Stripe lists become records, beside the live events.

    A snapshot is read by the processes with the role snapshotter, any number of them together. It
    survives all of them: `resume` goes on where it stood.
    """


@snapshot.command(short_help="Start one.")
@click.argument("name_or_id", metavar="SOURCE", shell_complete=source_names)
@click.argument("resources", metavar="[RESOURCE]…", nargs=-1)
@click.option(
    "--created-after",
    type=moment_of_flag,
    metavar="TIME",
    help="Objects created then or later: RFC 3339 or Unix seconds.",
)
@click.option(
    "--created-before", type=moment_of_flag, metavar="TIME", help="Objects created before."
)
@click.option(
    "--per-customer",
    is_flag=True,
    help="List payment methods customer by customer, which old API versions ask for.",
)
@click.option("--watch", "watching", is_flag=True, help="Show the progress until it ends.")
@common
@coroutine
async def start(
    call: Call,
    name_or_id: str,
    resources: tuple[str, ...],
    created_after: datetime | None,
    created_before: datetime | None,
    per_customer: bool,
    watching: bool,
) -> None:
    """Start a snapshot of RESOURCEs, by default of all in the source's schema that can be listed.

    It reads what exists by its first page; what changes later comes as live events.
    """
    from relay.store import events, snapshots, sources
    from relay.store.sealing import Seal
    from relay.store.snapshot_plan import Asked, plan

    asked = Asked(
        resources=resources,
        created_after=created_after,
        created_before=created_before,
        per_customer=per_customer,
    )
    async with call.database() as database:
        async with database.begin() as connection:
            found = await sources.find(connection, name_or_id)
        sealed = found.sealed_stripe_key
        key = None if sealed is None else Seal(call.settings.encryption_keys).open(sealed).decode()
        wanted = plan(found.config, key, asked)
        assert key is not None, "there is no plan without a key"
        await try_key(call.settings, key, wanted, found.config.name)
        async with database.begin() as connection:
            snapshot_id = await snapshots.start(connection, wanted, found.config.source_id)
            await events.log(connection, call.operator(None), "snapshot.start", snapshot_id)
        names = [name for name, _ in wanted.listings]
        if call.json:
            write_json({"id": snapshot_id, "source": found.config.name, "resources": names})
        else:
            say(f"snapshot {snapshot_id} of {found.config.name} started: {', '.join(names)}")
        if watching:
            await _watch_to_the_end(call, database, snapshot_id)


async def _watch_to_the_end(call: Call, database: Database, snapshot_id: str) -> None:
    """Exits 1 unless the snapshot finishes."""
    try:
        ended = await watch(
            database,
            snapshot_id,
            queue_rows=call.settings.snapshot_queue_rows,
            bars=not call.json,
        )
    except asyncio.CancelledError:  # Ctrl-C
        warn(
            f"snapshot {snapshot_id} goes on by itself: `relay snapshot show {snapshot_id} --watch`"
            f" looks again, `relay snapshot cancel {snapshot_id}` ends it"
        )
        raise
    if ended["state"] != "finished":
        reason = f": {ended['last_error']}" if ended["last_error"] else ""
        fix = (
            f"; when that is mended, `relay snapshot resume {snapshot_id}` goes on where it stands"
        )
        hint = fix if ended["state"] == "failed" else ""
        raise Failure(f"snapshot {snapshot_id} is {ended['state']}{reason}{hint}")


@snapshot.command("list")
@click.option(
    "--source",
    "source_name",
    metavar="NAME",
    shell_complete=source_names,
    help="Of this source only.",
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@common
@coroutine
async def list_(call: Call, source_name: str | None, limit: int) -> None:
    """Snapshots, the newest first."""
    from relay.store import snapshots, sources

    async with call.database() as database, database.begin() as connection:
        if source_name is not None:
            source_name = (await sources.find(connection, source_name)).config.name
        found = await snapshots.list_snapshots(connection, source=source_name, limit=limit)
    if call.json:
        write_json(found)
    else:
        rows = [each | {"took": duration(each["seconds"])} for each in found]
        write_table(rows, _LIST, "no snapshots: `relay snapshot start SOURCE`")


@snapshot.command()
@click.argument("snapshot_id", metavar="ID")
@click.option("--watch", "watching", is_flag=True, help="Show the progress until it ends.")
@common
@coroutine
async def show(call: Call, snapshot_id: str, watching: bool) -> None:
    """One snapshot, resource by resource."""
    from relay.store import ranges, snapshots

    async with call.database() as database:
        async with database.begin() as connection:
            found = await snapshots.show(connection, snapshot_id)
            rows = await snapshots.progress(connection, snapshot_id)
        async with database.driver() as pg:
            held_up = await ranges.has_claimable_work(pg, call.settings.snapshot_queue_rows)
        if call.json:
            write_json(found | {"progress": rows})
        else:
            _write(found, rows)
            if held_up and found["state"] == "running":
                warn("it pauses until the forwarders have caught up with the queue")
        if watching:
            await _watch_to_the_end(call, database, snapshot_id)


def _write(found: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from relay.store import snapshots

    shown = {name: value for name, value in found.items() if name != "resources"}
    shown["took"] = duration(shown.pop("seconds"))
    write_fields(shown)
    say()
    rows = [each | {"read": _percent(snapshots.share_read(each))} for each in rows]
    write_table(rows, _PROGRESS, "no resources")


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.0f} %"


@snapshot.command()
@click.argument("snapshot_id", metavar="ID")
@common
@coroutine
async def pause(call: Call, snapshot_id: str) -> None:
    """Ask for no more pages; the ones in hand are stored first."""
    await _change(call, snapshot_id, "pause")


@snapshot.command()
@click.argument("snapshot_id", metavar="ID")
@click.option("--watch", "watching", is_flag=True, help="Show the progress until it ends.")
@common
@coroutine
async def resume(call: Call, snapshot_id: str, watching: bool) -> None:
    """Go on where a paused or failed snapshot stands."""
    await _change(call, snapshot_id, "resume", watching=watching)


@snapshot.command()
@click.argument("snapshot_id", metavar="ID")
@common
@coroutine
async def cancel(call: Call, snapshot_id: str) -> None:
    """End it; what was read stays, and is forwarded."""
    await _change(call, snapshot_id, "cancel")


async def _change(call: Call, snapshot_id: str, action: Action, *, watching: bool = False) -> None:
    from relay.store import events, snapshots

    async with call.database() as database:
        async with database.begin() as connection:
            changed = await snapshots.change(connection, snapshot_id, action)
            found = await snapshots.show(connection, snapshot_id)
            if changed:
                await events.log(connection, call.operator(None), f"snapshot.{action}", snapshot_id)
        if call.json:
            write_json(found | {"changed": changed})
        elif changed:
            say(f"snapshot {snapshot_id} is {found['state']}")
        if not changed:
            raise Failure(f"snapshot {snapshot_id} is {found['state']}: nothing to {action}")
        if watching:
            await _watch_to_the_end(call, database, snapshot_id)
