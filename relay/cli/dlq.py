"""`relay dlq`: dead letters, which will not be retried by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from relay.cli.call import Call, common, coroutine
from relay.cli.failures import Failure
from relay.cli.filters import (
    Wanted,
    bulk_options,
    confirm,
    filter_options,
    require_choice,
    resolve,
)
from relay.cli.output import say, warn, write_fields, write_json, write_table
from relay.display import printable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from relay.store.deadletters import Replay
    from relay.store.engine import Database

_COLUMNS = ("id", "event_id", "event_type", "source", "error_code", "error", "dead_at")
_SHOWN_BY_DRY_RUN = 20


@click.group(short_help="Dead letters: look, replay, discard.")
def dlq() -> None:
    """Dead letters: events that can never work as they are, and samples of refused requests."""


@dlq.command("list")
@filter_options
@click.option("--all", "closed_too", is_flag=True, help="Replayed and discarded ones as well.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--before", type=int, metavar="ID", help="Continue a list below this id.")
@common
@coroutine
async def list_(
    call: Call, wanted: Wanted, closed_too: bool, limit: int, before: int | None
) -> None:
    """Open dead letters that fit all filters, the newest first."""
    from relay.store import deadletters

    async with call.database() as database, database.begin() as connection:
        found = await deadletters.list_dead_letters(
            connection,
            await resolve(connection, wanted),
            limit=limit,
            before_id=before,
            open_only=not closed_too,
        )
    if call.json:
        write_json(found)
        return
    columns = (*_COLUMNS, "replayed_at", "discarded_at") if closed_too else _COLUMNS
    write_table(found, columns, "no dead letters fit")
    if len(found) == limit:
        say(f"… the next ones: --before {found[-1]['id']}")


@dlq.command()
@click.argument("letter_id", metavar="ID", type=int)
@common
@coroutine
async def show(call: Call, letter_id: int) -> None:
    """One dead letter with its body."""
    from relay.store import deadletters

    async with call.database() as database, database.begin() as connection:
        found = await deadletters.show_dead_letter(connection, letter_id)
    if found is None:
        raise Failure(f"there is no dead letter {letter_id}")
    if call.json:
        write_json(found)
        return
    body = found.pop("body_text") or ""
    write_fields(found)
    if found["inbox_id"] is None:
        say("\nsample of a refused request: it was not answered 2xx and is no event")
    say("\nbody" if body else "\nbody: empty, or redacted (see `relay events show`)")
    click.echo(printable(body[:4000], keep="\n\t"))
    if len(body) > 4000:
        say(f"… {len(body) - 4000} characters more: --json")


@dlq.command(short_help="Send dead letters again.")
@click.argument("ids", metavar="[ID]…", nargs=-1)
@filter_options
@bulk_options
@common
@coroutine
async def replay(
    call: Call,
    ids: tuple[str, ...],
    wanted: Wanted,
    yes: bool,
    dry_run: bool,
    reason: str | None,
) -> None:
    """Send dead letters again, each at the end of its object's line and with a _replay_id.

    An ID is that of the dead letter or of the event (evt_…). Exits 1 when none could be queued.
    """
    from relay.store import deadletters

    require_choice(ids, wanted)
    async with call.database() as database:
        letters = await _find(database, ids, wanted)
        if letters and not ids and not dry_run:
            confirm(f"replay {len(letters)} dead letters?", yes=yes)
        async with database.begin() as connection:
            done = await deadletters.replay(connection, letters, call.operator(reason))
            if dry_run:
                # It has really been done, so what is shown is what would happen; now it is undone.
                await connection.rollback()
    _write_replay(call, len(letters), done, dry_run=dry_run)
    if letters and not done.queued:
        raise click.exceptions.Exit(1)


def _write_replay(call: Call, matched: int, done: Replay, *, dry_run: bool) -> None:
    if call.json:
        write_json(
            {
                "matched": matched,
                "dry_run": dry_run,
                "replay_id": None if dry_run else done.replay_id,
                "queued": list(done.queued),
                "refused": {str(letter): why for letter, why in done.refused.items()},
                "overtaken": list(done.overtaken),
            }
        )
    elif not matched:
        say("no dead letters fit")
    elif dry_run:
        say(f"would replay {len(done.queued)} of {matched} dead letters")
    else:
        say(f"{len(done.queued)} of {matched} dead letters are queued again as {done.replay_id}")
    for letter, why in list(done.refused.items())[:_SHOWN_BY_DRY_RUN]:
        warn(f"dead letter {letter} cannot be sent: {why}")
    if len(done.refused) > _SHOWN_BY_DRY_RUN:
        warn(f"… and {len(done.refused) - _SHOWN_BY_DRY_RUN} more cannot be sent")
    if done.overtaken:
        ids = ", ".join(str(letter) for letter in done.overtaken[:_SHOWN_BY_DRY_RUN])
        warn(
            f"of {len(done.overtaken)} objects newer events were delivered since: consumers see an"
            f" older state once more (dead letters {ids})"
        )


@dlq.command(short_help="Give dead letters up.")
@click.argument("ids", metavar="[ID]…", nargs=-1)
@filter_options
@bulk_options
@common
@coroutine
async def discard(
    call: Call,
    ids: tuple[str, ...],
    wanted: Wanted,
    yes: bool,
    dry_run: bool,
    reason: str | None,
) -> None:
    """Give dead letters up: their events are `skipped`, and their receipt says `discarded`.

    An ID is that of the dead letter or of the event (evt_…).
    """
    from relay.store import deadletters

    require_choice(ids, wanted)
    discarded = 0
    async with call.database() as database:
        letters = await _find(database, ids, wanted)
        if letters and not dry_run:
            if not ids:
                confirm(f"discard {len(letters)} dead letters?", yes=yes)
            async with database.begin() as connection:
                discarded = await deadletters.discard(connection, letters, call.operator(reason))
    if call.json:
        write_json({"matched": len(letters), "dry_run": dry_run, "discarded": discarded})
    elif not letters:
        say("no dead letters fit")
    elif dry_run:
        say(f"would discard {len(letters)} dead letters")
    else:
        say(f"{discarded} dead letters discarded")


async def _find(database: Database, ids: tuple[str, ...], wanted: Wanted) -> list[int]:
    """The ids of the open dead letters that are meant, in the order of their events."""
    from relay.store import deadletters

    async with database.begin() as connection:
        if not ids:
            return await deadletters.find_ids(connection, await resolve(connection, wanted))
        return [letter for each in ids for letter in await _named(connection, each)]


async def _named(connection: AsyncConnection, name: str) -> list[int]:
    from relay.store import deadletters
    from relay.store.events import Filter

    if not (name.isascii() and name.isdigit() and len(name) < 19):
        found = await deadletters.find_ids(connection, Filter(event_id=name))
        if not found:
            raise Failure(f"there is no open dead letter of an event {name!r}")
        return found
    letter: dict[str, Any] | None = await deadletters.show_dead_letter(connection, int(name))
    if letter is None:
        raise Failure(f"there is no dead letter {name}")
    for how in ("replayed", "discarded"):
        if letter[f"{how}_at"] is not None:
            raise Failure(f"dead letter {name} was {how} already")
    return [letter["id"]]
