"""`relay dlq`: dead letters, which will not be retried by themselves."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from relay.cli import dlq_replaying
from relay.cli.call import Call, common, coroutine
from relay.cli.dlq_replaying import named
from relay.cli.failures import Failure
from relay.cli.filters import (
    Wanted,
    bulk_options,
    confirm,
    filter_options,
    require_choice,
    resolve,
)
from relay.cli.output import say, write_fields, write_json, write_table
from relay.cli.progress import in_batches
from relay.display import printable

_COLUMNS = ("id", "event_id", "event_type", "source", "error_code", "error", "dead_at")
_SPARE = ("source", "dead_at", "event_type", "error")


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
    write_table(found, columns, "no dead letters fit", spare=_SPARE)
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
@click.option("--resume", metavar="REPLAY", help="Go on with a replay that was interrupted: rpl_…")
@bulk_options
@common
@coroutine
async def replay(
    call: Call,
    ids: tuple[str, ...],
    wanted: Wanted,
    resume: str | None,
    **bulk: Any,
) -> None:
    """Send dead letters again, each at the end of its object's line and with a _replay_id.

    An ID is that of the dead letter or of the event (evt_…). Exits 1 when none could be queued.

    Many, by filters, are looked through first; then it asks. `relay replays show` tells how far
    they have come.
    """
    await dlq_replaying.replay(call, ids, wanted, resume, **bulk)


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
        async with database.begin() as connection:
            chosen = await resolve(connection, wanted)
            letters = await (
                named(connection, ids) if ids else deadletters.find_ids(connection, chosen)
            )
        if letters and not dry_run:
            if not ids:
                confirm(f"discard {len(letters)} dead letters?", yes=yes)
            operator = call.operator(reason)
            act = partial(deadletters.discard, operator=operator, wanted=None if ids else chosen)
            discarded = await in_batches(database, letters, act, "discard")
    if call.json:
        write_json({"matched": len(letters), "dry_run": dry_run, "discarded": discarded})
    elif not letters:
        say("no dead letters fit")
    elif dry_run:
        say(f"would discard {len(letters)} dead letters")
    else:
        say(f"{discarded} dead letters discarded")
