"""Dead letters: looking at them, sending them again, giving them up.

A few are sent again by their ids, in one transaction. Many, by a filter, are a run: it queues them
in transactions of bounded size, in the order of their events, and the operator log holds in the
same transactions how far it has come. What is queued is closed, and what dies later is not of the
run: to go on with it, or to run it again, adds nothing twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, column, false, func, select, table
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.core.errors import ConfigError, UnusableEvent
from relay.store.events import (
    BATCH,
    Filter,
    Operator,
    conditions_on,
    discard_dead_letters,
    is_impossible,
    log,
    told,
)
from relay.store.redaction_tables import IS_REDACTED
from relay.store.replays import line_of, new_replay_id
from relay.store.runs import DEAD_LETTERS, hold, last_details

_HEAD = (
    "id",
    "source",
    "inbox_id",
    "event_id",
    "event_type",
    "error_code",
    "error",
    "attempts",
    "dead_at",
    "replayed_at",
    "discarded_at",
)
_SAMPLE = "a refused request: it never was an event of yours"
_letters = table("dead_letters", *map(column, (*_HEAD, "body_text")), schema="relay")


class Replay(msgspec.Struct, frozen=True):
    """What a replay did.

    ``refused`` tells by dead letter id why it cannot be sent. ``overtaken`` are those of whose
    object a newer event has been delivered: consumers will see the older state again.
    """

    replay_id: str
    queued: tuple[int, ...]
    refused: dict[int, str]
    overtaken: tuple[int, ...]


class Run(msgspec.Struct, frozen=True):
    """A replay of many, as far as it has come.

    Of the dead letters with ids up to ``last`` that fit ``wanted``, ``matched`` in all, those with
    inbox ids up to ``done`` have been looked at. ``refused`` counts by the reason what cannot be
    sent, ``overtaken`` those of ``queued`` of whose object a newer event has been delivered.
    """

    replay_id: str
    wanted: Filter
    matched: int
    last: int
    done: int = 0
    queued: int = 0
    overtaken: int = 0
    refused: dict[str, int] = {}
    finished: bool = False
    cancelled: bool = False
    background: bool = False


def _conditions(wanted: Filter, *, open_only: bool) -> list[ColumnElement[bool]]:
    c = _letters.c
    if wanted.state not in (None, "dead"):
        raise ConfigError(f"dead letters have no state {wanted.state!r}: leave the state out")
    if is_impossible(wanted):
        return [false()]
    conditions = conditions_on(wanted, c, inbox_id="inbox_id", error="error_code", moment="dead_at")
    if open_only:
        conditions += [c.replayed_at.is_(None), c.discarded_at.is_(None)]
    if wanted.object is not None:
        of_object = sql("SELECT id FROM relay.inbox WHERE object_id = :object").bindparams(
            object=wanted.object
        )
        conditions.append(c.inbox_id.in_(of_object.columns(column("id"))))
    return conditions


async def list_dead_letters(
    connection: AsyncConnection,
    wanted: Filter,
    *,
    limit: int = 50,
    before_id: int | None = None,
    open_only: bool = True,
) -> list[dict[str, Any]]:
    """Dead letters that fit, the newest first, without their bodies."""
    statement = (
        select(*(_letters.c[name] for name in _HEAD))
        .where(*_conditions(wanted, open_only=open_only))
        .order_by(_letters.c.id.desc())
        .limit(limit)
    )
    if before_id is not None:
        statement = statement.where(_letters.c.id < before_id)
    return [dict(row._mapping) for row in await connection.execute(statement)]


async def find_ids(connection: AsyncConnection, wanted: Filter) -> list[int]:
    """The ids of all open dead letters that fit, in the order of their events."""
    statement = select(_letters.c.id).where(*_conditions(wanted, open_only=True))
    ordered = statement.order_by(_letters.c.inbox_id, _letters.c.id)
    return list((await connection.execute(ordered)).scalars())


async def next_ids(
    connection: AsyncConnection, wanted: Filter, *, up_to: int, limit: int
) -> list[int]:
    """The ids of some open dead letters that fit, none of them above ``up_to``."""
    statement = (
        select(_letters.c.id)
        .where(*_conditions(wanted, open_only=True), _letters.c.id <= up_to)
        .order_by(_letters.c.id)
        .limit(limit)
    )
    return list((await connection.execute(statement)).scalars())


async def show_dead_letter(connection: AsyncConnection, letter_id: int) -> dict[str, Any] | None:
    """One dead letter with its body as text."""
    row = (
        await connection.execute(select(_letters).where(_letters.c.id == letter_id))
    ).one_or_none()
    return None if row is None else dict(row._mapping)


# A body is read only where its key may be somewhere in it; thousands of large ones at once are not.
_LOOK = f"""
SELECT d.id, d.inbox_id, d.received_at, d.error_code, d.source_id, i.id IS NOT NULL AS is_kept,
       i.event_type, i.object_id, octet_length(i.body) AS bytes,
       {IS_REDACTED} AS is_redacted,
       CASE WHEN i.object_id IS NULL AND i.event_type IS NOT NULL THEN i.body END AS body,
       i.object_id IS NOT NULL AND EXISTS (
           SELECT FROM relay.inbox n
           JOIN relay.receipt t ON t.inbox_id = n.id AND t.received_at = n.received_at
           WHERE n.object_id = i.object_id AND n.source_id = i.source_id
             AND n.account IS NOT DISTINCT FROM i.account
             AND n.id > i.id AND t.topic IS NOT NULL AND t.kind = 0) AS overtaken
FROM relay.dead_letter d
LEFT JOIN relay.inbox i ON i.id = d.inbox_id AND i.received_at = d.received_at
WHERE d.id = ANY (:ids) AND d.replayed_at IS NULL AND d.discarded_at IS NULL
ORDER BY d.inbox_id, d.id
"""  # noqa: S608 - a constant of ours
_TO_REPLAY = f"{_LOOK}FOR UPDATE OF d"

_QUEUE_AGAIN = """
WITH given AS (
    SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:lanes AS smallint[]),
                         CAST(:key_hashes AS bigint[]), CAST(:bytes AS integer[]))
        WITH ORDINALITY AS g (id, lane, key_hash, bytes, place)
), closed AS (
    UPDATE relay.dead_letter d SET replayed_at = clock_timestamp() FROM given g WHERE d.id = g.id
    RETURNING d.id, d.source_id, d.inbox_id, d.received_at
)
INSERT INTO relay.queue (source_id, lane, number, inbox_id, received_at, key_hash, bytes, kind,
    replay_id)
SELECT c.source_id, g.lane, nextval('relay.arrival'), c.inbox_id, c.received_at, g.key_hash,
    g.bytes, 0, :replay_id
FROM given g JOIN closed c ON c.id = g.id ORDER BY g.place
"""


async def replay(connection: AsyncConnection, ids: Sequence[int], operator: Operator) -> Replay:
    """Queue dead letters again, each at the end of its object's line, and close them.

    Dead letters that are closed already are passed over, so the same replay twice adds nothing.
    """
    done = await _queue(connection, ids, new_replay_id())
    details = {"queued": told(done.queued), "refused": told(list(done.refused))}
    await log(connection, operator, DEAD_LETTERS, done.replay_id, details)
    return done


async def look(connection: AsyncConnection, ids: Sequence[int]) -> Replay:
    """What a replay of them would do now. Changes nothing, and locks nothing."""
    rows = await connection.execute(sql(_LOOK), {"ids": list(ids)})
    return _sort(rows, new_replay_id())[1]


async def _queue(connection: AsyncConnection, ids: Sequence[int], replay_id: str) -> Replay:
    rows = await connection.execute(sql(_TO_REPLAY), {"ids": list(ids)})
    again, replay = _sort(rows, replay_id)
    if again:
        names = ("ids", "lanes", "key_hashes", "bytes")
        columns = dict(zip(names, map(list, zip(*again, strict=True)), strict=True))
        await connection.execute(sql(_QUEUE_AGAIN), columns | {"replay_id": replay_id})
    return replay


def _sort(rows: Iterable[Any], replay_id: str) -> tuple[list[tuple[int, int, int, int]], Replay]:
    """What to queue, as ids, lanes, hashes of keys and bytes; and what there is to say."""
    again: list[tuple[int, int, int, int]] = []
    overtaken: list[int] = []
    refused: dict[int, str] = {}
    for row in rows:
        try:
            lane, key_hash = _line_of(row)
        except UnusableEvent as error:
            refused[row.id] = error.message
            continue
        again.append((row.id, lane, key_hash, row.bytes))
        if row.overtaken:
            overtaken.append(row.id)
    queued = tuple(letter for letter, *_ in again)
    return again, Replay(replay_id, queued, refused, tuple(overtaken))


async def prepare(connection: AsyncConnection, wanted: Filter) -> Run:
    """A run over all open dead letters that fit now. Nothing is written down yet."""
    c = _letters.c
    found = await connection.execute(
        select(
            func.count(),
            func.coalesce(func.max(c.id), 0),
            func.count().filter(c.inbox_id.is_(None)),
        ).where(*_conditions(wanted, open_only=True))
    )
    matched, last, samples = found.one()
    refused = {_SAMPLE: samples} if samples else {}
    return Run(new_replay_id(), wanted, matched=matched, last=last, refused=refused)


async def look_at_some(connection: AsyncConnection, run: Run, *, limit: int = BATCH) -> Run:
    """The run as ``queue_some`` would leave it. Changes nothing, and locks nothing."""
    page = await _page(connection, run, limit)
    return _after(run, page, await look(connection, list(page)))


async def begin(
    connection: AsyncConnection, run: Run, operator: Operator, *, background: bool = False
) -> Run:
    """Write down a run that was prepared, or looked through: it is found by its id from now on.

    It is about what was there then, and not about what has died since. With ``background`` the
    processes with the role admin go on with it.
    """
    samples = run.refused.get(_SAMPLE, 0)
    run = Run(
        run.replay_id,
        run.wanted,
        matched=run.matched,
        last=run.last,
        refused={_SAMPLE: samples} if samples else {},
        background=background,
    )
    await _write_down(connection, run, operator)
    return run


async def find_run(connection: AsyncConnection, replay_id: str) -> Run | None:
    """A run as the operator log knows it."""
    details = await last_details(connection, DEAD_LETTERS, replay_id, "wanted")
    return None if details is None else msgspec.convert(details, Run)


async def queue_some(
    connection: AsyncConnection, run: Run, operator: Operator, *, limit: int = BATCH
) -> Run:
    """Queue the next ``limit`` dead letters; the run is finished when there are none.

    It goes on from where the operator log says, whoever has brought it there.
    """
    await hold(connection, run.replay_id)
    run = await find_run(connection, run.replay_id) or run
    if run.finished:
        return run
    page = await _page(connection, run, limit)
    after = _after(run, page, await _queue(connection, list(page), run.replay_id))
    await _write_down(connection, after, operator)
    return after


async def cancel(connection: AsyncConnection, replay_id: str, operator: Operator) -> bool:
    """End a run with what it has queued, which is sent. False when it is finished already."""
    await hold(connection, replay_id)
    run = await find_run(connection, replay_id)
    if run is None or run.finished:
        return False
    ended = msgspec.structs.replace(run, finished=True, cancelled=True)
    await _write_down(connection, ended, operator)
    return True


async def _write_down(connection: AsyncConnection, run: Run, operator: Operator) -> None:
    await log(connection, operator, DEAD_LETTERS, run.replay_id, msgspec.to_builtins(run))


async def _page(connection: AsyncConnection, run: Run, limit: int) -> dict[int, int]:
    """The next dead letters of a run, by their ids the inbox ids of their events, in this order."""
    c = _letters.c
    page = (
        select(c.id, c.inbox_id)
        .where(*_conditions(run.wanted, open_only=True), c.id <= run.last, c.inbox_id > run.done)
        .order_by(c.inbox_id)
        .limit(limit)
    )
    return {row.id: row.inbox_id for row in await connection.execute(page)}


def _after(run: Run, page: dict[int, int], done: Replay) -> Run:
    if not page:
        return msgspec.structs.replace(run, finished=True)
    return msgspec.structs.replace(
        run,
        done=max(page.values()),
        queued=run.queued + len(done.queued),
        overtaken=run.overtaken + len(done.overtaken),
        refused=dict(Counter(run.refused) + Counter(done.refused.values())),
    )


def _line_of(row: Any) -> tuple[int, int]:
    """The lane and the hash of the key; raises UnusableEvent with the reason for a refusal."""
    if row.inbox_id is None:
        raise UnusableEvent("refused", _SAMPLE)
    if not row.is_kept:
        raise UnusableEvent("gone", "its body is gone: the retention has passed")
    if row.is_redacted:
        raise UnusableEvent("redacted", "its body was redacted: discard it")
    if row.event_type is None:
        raise UnusableEvent("unusable", f"no usable event ({row.error_code}): discard it")
    try:
        return line_of(row.object_id, row.body)
    except UnusableEvent as error:
        raise UnusableEvent(error.code, f"no usable event ({error.code}): discard it") from error


async def discard(
    connection: AsyncConnection,
    ids: Sequence[int],
    operator: Operator,
    wanted: Filter | None = None,
) -> int:
    """Give open dead letters up: their events are ``skipped``; returns how many.

    ``wanted`` is the filter that they were chosen by, for the operator log.
    """
    closed = await discard_dead_letters(connection, ids)
    target = f"{len(closed)} dead letters"
    await log(connection, operator, "dead_letter.discard", target, told(closed, wanted))
    return len(closed)
