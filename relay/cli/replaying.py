"""`relay events replay`: events that were settled, sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from relay.cli.call import Call
from relay.cli.failures import Failure
from relay.cli.filters import Wanted, confirm, resolve
from relay.cli.output import say, warn, write_json, write_table
from relay.cli.progress import interruptible, progress
from relay.core.errors import ConfigError

if TYPE_CHECKING:
    from relay.store.engine import Database
    from relay.store.events import Operator
    from relay.store.replays import Choice, Run

_SHOWN = 20
_COLUMNS = ("id", "event_id", "event_type", "object_id", "source", "state", "settled_at")


async def replay(
    call: Call,
    event_ids: tuple[str, ...],
    wanted: Wanted,
    topic: str | None,
    resume: str | None,
    *,
    yes: bool,
    dry_run: bool,
    reason: str | None,
) -> None:
    """One of the three: named events, those that fit filters, or the rest of an earlier replay."""
    filtered = not wanted.is_empty or topic is not None
    if [bool(event_ids), filtered, resume is not None].count(True) != 1:
        raise click.UsageError("name events, or give a filter such as --topic, or --resume")
    operator = call.operator(reason)
    async with call.database() as database:
        if event_ids:
            await _named_ones(call, database, event_ids, operator, dry_run=dry_run)
        elif resume is not None:
            if dry_run:
                raise click.UsageError("--resume has been asked about already: no --dry-run")
            await _run(call, database, await _find(database, resume), operator)
        else:
            choice, matched, redacted = await _choose(database, wanted, topic)
            if dry_run:
                await _write_plan(call, database, choice, matched, redacted)
            elif matched:
                await _warn_unpaused(database, choice)
                state = choice.wanted.state
                confirm(f"send {matched - redacted} {state} events again?", yes=yes)
                await _run(
                    call, database, await _begin(database, choice, matched, operator), operator
                )
            else:
                _write_done(call, None)


async def _choose(database: Database, wanted: Wanted, topic: str | None) -> tuple[Choice, int, int]:
    """What is meant, how many events fit, and how many of them were redacted."""
    from relay.store import replays

    if wanted.state is None:
        wanted = msgspec.structs.replace(wanted, state="delivered")
    if wanted.state not in replays.SETTLED:
        hint = "`relay dlq replay`" if wanted.state == "dead" else "they will be sent anyway"
        raise click.UsageError(f"events that are {wanted.state} are not sent again here: {hint}")
    async with database.begin() as connection:
        choice = replays.Choice(await resolve(connection, wanted), topic)
        matched = await replays.count(connection, choice)
        return choice, matched, await replays.count_redacted(connection, choice)


async def _warn_unpaused(database: Database, choice: Choice) -> None:
    from relay.store import replays

    async with database.begin() as connection:
        names = await replays.unpaused_sources(connection, choice)
    if names:
        warn(
            f"not paused: {', '.join(names)}. Events that arrive meanwhile may be sent before older"
            " ones of their object; `relay source pause` first keeps them behind"
        )


async def _begin(database: Database, choice: Choice, matched: int, operator: Operator) -> Run:
    from relay.store import replays

    async with database.begin() as connection:
        return await replays.begin(connection, choice, matched, operator)


async def _find(database: Database, replay_id: str) -> Run:
    from relay.store import replays

    async with database.begin() as connection:
        found = await replays.find_run(connection, replay_id)
    if found is None:
        raise Failure(f"there is no replay {replay_id!r} of many events")
    if found.finished:
        raise Failure(f"{replay_id} is finished: it has queued {found.queued} events")
    return found


async def _run(call: Call, database: Database, run: Run, operator: Operator) -> None:
    from relay.store import replays

    def how() -> str:
        return (
            f"{run.queued} events are queued; `relay events replay --resume {run.replay_id}`"
            " goes on there"
        )

    with interruptible(how), progress("queueing", run.matched) as show:
        while not run.finished:
            async with database.begin() as connection:
                run = await replays.queue_some(connection, run, operator)
            show(run.queued + run.redacted)
    _write_done(call, run)


def _write_done(call: Call, run: Run | None) -> None:
    if call.json:
        queued, name = (0, None) if run is None else (run.queued, run.replay_id)
        redacted = 0 if run is None else run.redacted
        write_json({"dry_run": False, "replay_id": name, "queued": queued, "redacted": redacted})
    elif run is None:
        say("no events fit")
    else:
        say(f"{run.queued} events are queued again as {run.replay_id}")
        _warn_redacted(run.redacted)


def _warn_redacted(count: int) -> None:
    if count:
        warn(f"{count} events are left out: they were redacted, there is nothing left to send")


async def _write_plan(
    call: Call, database: Database, choice: Choice, matched: int, redacted: int
) -> None:
    from relay.store import events

    async with database.begin() as connection:
        # The newest ones; the filter by topic is the replay's own.
        first = (
            []
            if choice.topic
            else await events.list_events(connection, choice.wanted, limit=_SHOWN)
        )
    if call.json:
        shown = {"matched": matched, "dry_run": True, "redacted": redacted, "first": first}
        write_json(shown)
        return
    say(f"would send {matched - redacted} events again")
    _warn_redacted(redacted)
    if first:
        write_table(first, _COLUMNS, "")


async def _named_ones(
    call: Call,
    database: Database,
    event_ids: tuple[str, ...],
    operator: Operator,
    *,
    dry_run: bool,
) -> None:
    from relay.store import replays

    async with database.begin() as connection:
        chosen = [each for name in event_ids for each in await _settled(connection, name)]
        done = await replays.replay(connection, chosen, operator)
        if done.redacted and not done.queued:
            await connection.rollback()
            raise Failure("redacted: of what was named there is nothing left to send")
        if dry_run:
            # Done and undone: what is shown is what would happen.
            await connection.rollback()
    if call.json:
        shown: dict[str, Any] = {
            "dry_run": dry_run,
            "replay_id": None if dry_run else done.replay_id,
            "queued": len(done.queued),
            "overtaken": list(done.overtaken),
            "redacted": list(done.redacted),
        }
        write_json(shown)
    elif dry_run:
        say(f"would send {len(done.queued)} events again")
    else:
        say(f"{len(done.queued)} events are queued again as {done.replay_id}")
    _warn_redacted(len(done.redacted))
    if done.overtaken:
        warn(
            f"of {len(done.overtaken)} objects newer events were delivered since: consumers see an"
            f" older state once more (inbox ids {', '.join(map(str, done.overtaken[:_SHOWN]))})"
        )


async def _settled(connection: Any, name: str) -> list[tuple[int, Any]]:
    from relay.cli.events import named
    from relay.store import events, replays

    found = await events.list_events(connection, named(name))
    if not found:
        raise Failure(f"there is no event {name!r}")
    settled = [
        (each["id"], each["received_at"]) for each in found if each["state"] in replays.SETTLED
    ]
    if not settled:
        state = found[0]["state"]
        hint = "see `relay dlq replay`" if state == "dead" else "it will be sent anyway"
        raise ConfigError(f"{name} is {state}: {hint}")
    return settled
