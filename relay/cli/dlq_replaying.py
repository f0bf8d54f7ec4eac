"""`relay dlq replay`: dead letters, sent again."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from relay.cli.call import Call
from relay.cli.failures import Failure
from relay.cli.filters import Wanted, confirm, resolve
from relay.cli.output import say, warn, write_json
from relay.cli.progress import interruptible, progress

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from relay.store.deadletters import Replay, Run
    from relay.store.engine import Database
    from relay.store.events import Operator

_SHOWN = 20


async def replay(
    call: Call,
    ids: tuple[str, ...],
    wanted: Wanted,
    resume: str | None,
    *,
    yes: bool,
    dry_run: bool,
    reason: str | None,
) -> None:
    """One of the three: named ones, those that fit filters, or the rest of an earlier replay."""
    if [bool(ids), not wanted.is_empty, resume is not None].count(True) != 1:
        raise click.UsageError("name ids, or give a filter such as --error, or --resume")
    if resume is not None and dry_run:
        raise click.UsageError("--resume has been asked about already: no --dry-run")
    operator = call.operator(reason)
    async with call.database() as database:
        if ids:
            await _named_ones(call, database, ids, operator, dry_run=dry_run)
        elif resume is not None:
            await _go_on(call, database, await _find(database, resume), operator)
        else:
            await _many(call, database, wanted, operator, yes=yes, dry_run=dry_run)


async def _named_ones(
    call: Call, database: Database, ids: tuple[str, ...], operator: Operator, *, dry_run: bool
) -> None:
    from relay.store import deadletters

    async with database.begin() as connection:
        letters = await named(connection, ids)
        if dry_run:
            done = await deadletters.look(connection, letters)
        else:
            done = await deadletters.replay(connection, letters, operator)
    _write_named(done)
    _write_done(call, _counted(len(letters), done), dry_run=dry_run)


async def _many(
    call: Call, database: Database, wanted: Wanted, operator: Operator, *, yes: bool, dry_run: bool
) -> None:
    from relay.store import deadletters

    seen = await _look_through(database, wanted)
    _write_overtaken(seen)
    if dry_run or not seen.queued:
        _write_refused(seen)
        _write_done(call, seen, dry_run=dry_run)
        return
    confirm(f"replay {seen.queued} of {seen.matched} dead letters?", yes=yes)
    async with database.begin() as connection:
        run = await deadletters.begin(connection, seen, operator)
    await _go_on(call, database, run, operator)


async def named(connection: AsyncConnection, names: tuple[str, ...]) -> list[int]:
    """The open dead letters that are named, by their own ids or by those of their events."""
    return [letter for each in names for letter in await _named(connection, each)]


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


async def _look_through(database: Database, wanted: Wanted) -> Run:
    """The run as it would end now, without having begun."""
    from relay.store import deadletters

    async with database.begin() as connection:
        run = await deadletters.prepare(connection, await resolve(connection, wanted))
    with progress("looking through", run.matched) as show:
        while not run.finished:
            async with database.begin() as connection:
                run = await deadletters.look_at_some(connection, run)
            show(_seen(run))
    return run


async def _find(database: Database, replay_id: str) -> Run:
    from relay.store import deadletters

    async with database.begin() as connection:
        found = await deadletters.find_run(connection, replay_id)
    if found is None:
        raise Failure(f"there is no replay {replay_id!r} of many dead letters")
    if found.finished:
        raise Failure(f"{replay_id} is finished: it has queued {found.queued} dead letters")
    return found


async def _go_on(call: Call, database: Database, run: Run, operator: Operator) -> None:
    from relay.store import deadletters

    def how() -> str:
        return (
            f"{run.queued} dead letters are queued; `relay dlq replay --resume {run.replay_id}`"
            " goes on there"
        )

    with interruptible(how), progress("queueing", run.matched) as show:
        while not run.finished:
            async with database.begin() as connection:
                run = await deadletters.queue_some(connection, run, operator)
            show(_seen(run))
    _write_refused(run)
    _write_done(call, run, dry_run=False)


def _seen(run: Run) -> int:
    return run.queued + sum(run.refused.values())


def _counted(matched: int, done: Replay) -> Run:
    """What was done with a few, told as of many."""
    from relay.store.deadletters import Run
    from relay.store.events import Filter

    return Run(
        done.replay_id,
        Filter(),
        matched=matched,
        last=0,
        queued=len(done.queued),
        overtaken=len(done.overtaken),
        refused=dict(Counter(done.refused.values())),
        finished=True,
    )


def _write_named(done: Replay) -> None:
    for letter, why in list(done.refused.items())[:_SHOWN]:
        warn(f"dead letter {letter} cannot be sent: {why}")
    if len(done.refused) > _SHOWN:
        warn(f"… and {len(done.refused) - _SHOWN} more cannot be sent")
    if done.overtaken:
        ids = ", ".join(map(str, done.overtaken[:_SHOWN]))
        warn(f"{_overtaken(len(done.overtaken))} (dead letters {ids})")


def _write_refused(run: Run) -> None:
    for why, count in run.refused.items():
        warn(f"{count} dead letters cannot be sent: {why}")


def _write_overtaken(run: Run) -> None:
    if run.overtaken:
        warn(_overtaken(run.overtaken))


def _overtaken(count: int) -> str:
    return (
        f"of the objects of {count} dead letters newer events were delivered since: consumers see"
        " an older state once more"
    )


def _write_done(call: Call, run: Run, *, dry_run: bool) -> None:
    """The counts; exits with 1 when something fitted and nothing could be queued."""
    if call.json:
        write_json(
            {
                "matched": run.matched,
                "dry_run": dry_run,
                "replay_id": None if dry_run or not run.queued else run.replay_id,
                "queued": run.queued,
                "refused": run.refused,
                "overtaken": run.overtaken,
            }
        )
    elif not run.matched:
        say("no dead letters fit")
    elif dry_run:
        say(f"would replay {run.queued} of {run.matched} dead letters")
    else:
        as_what = f" as {run.replay_id}" if run.queued else ""
        say(f"{run.queued} of {run.matched} dead letters are queued again{as_what}")
    if run.matched and not run.queued:
        raise click.exceptions.Exit(1)
