"""`relay replays`: what was sent again, by whom and why, and how far it has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from relay.cli.call import Call, common, coroutine
from relay.cli.failures import Failure
from relay.cli.output import cell, say, write_fields, write_json, write_table

if TYPE_CHECKING:
    from relay.store.runs import Told

_COLUMNS = (
    "replay_id", "of", "matched", "queued", "is_finished", "started_at", "who", "reason", "filter"
)  # fmt: skip
_SPARE = ("who", "filter", "of", "matched", "reason", "is_finished")


@click.group(short_help="What was sent again, and how far it is.")
def replays() -> None:
    """Replays of events and of dead letters, each with its id, its reason and its receipts."""


@replays.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@common
@coroutine
async def list_(call: Call, limit: int) -> None:
    """All replays, the newest first."""
    from relay.store import runs

    async with call.database() as database, database.begin() as connection:
        found = await runs.list_replays(connection, limit=limit)
    if call.json:
        write_json([_fields(each) for each in found])
        return
    rows = [_fields(each) | {"filter": _flags(each)} for each in found]
    write_table(rows, _COLUMNS, "nothing was sent again", spare=_SPARE)


@replays.command(short_help="One replay, and what became of it.")
@click.argument("replay_id", metavar="REPLAY")
@common
@coroutine
async def show(call: Call, replay_id: str) -> None:
    """One replay (rpl_…): who, when, why and what; how many are queued, waiting and delivered.

    It looks through the receipts for that, which takes some seconds for each ten million of them.
    """
    from relay.store import runs

    async with call.database() as database, database.begin() as connection:
        found = await runs.find_replay(connection, replay_id)
        if found is None:
            raise Failure(f"there is no replay {replay_id!r}")
        progress = msgspec.structs.asdict(await runs.progress(connection, found))
    fields = _fields(found) | progress
    if call.json:
        write_json(fields)
        return
    write_fields(fields | {"filter": _flags(found)})
    rest = found.queued - sum(progress.values())
    if rest > 0:
        say(f"\n{rest} more are dead again, or the retention has removed their receipts")
    if found.is_cancelled:
        say("\nit was cancelled: what it had queued is sent, and nothing more")
    if found.in_background and not found.is_finished:
        say("\nit goes on by itself, in a process with the role admin")
    elif not found.is_finished:
        group = "dlq" if found.of == "dead letters" else "events"
        say(f"\nit is still going on, or goes on with: relay {group} replay --resume {replay_id}")


@replays.command(short_help="End one with what it has queued.")
@click.argument("replay_id", metavar="REPLAY")
@click.option("--reason", metavar="TEXT", help="Why; kept in the operator log.")
@common
@coroutine
async def cancel(call: Call, replay_id: str, reason: str | None) -> None:
    """End a replay of many (rpl_…): nothing more is queued, and what is queued already is sent."""
    from relay.store import deadletters, runs
    from relay.store import replays as events

    async with call.database() as database, database.begin() as connection:
        found = await runs.find_replay(connection, replay_id)
        if found is None:
            raise Failure(f"there is no replay {replay_id!r}")
        end = events.cancel if found.of == "events" else deadletters.cancel
        if not await end(connection, replay_id, call.operator(reason)):
            raise Failure(f"{replay_id} is finished: it has queued {found.queued} events")
        ended = await runs.find_replay(connection, replay_id)
        assert ended is not None, "it was there a moment ago"
    if call.json:
        write_json(_fields(ended))
    else:
        say(f"{replay_id} is cancelled: {ended.queued} of {ended.matched} are queued")


def _fields(replay: Told) -> dict[str, Any]:
    return msgspec.structs.asdict(replay)


def _flags(replay: Told) -> str:
    """The filter as it was written."""
    if replay.filter is None:
        return "(by name)"
    return " ".join(f"--{name} {cell(value)}" for name, value in replay.filter.items())
