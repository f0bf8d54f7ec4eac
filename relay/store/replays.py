"""Sending events again that were settled already: delivered, or skipped.

A few by their ids go to the end of their objects' lines, as a replayed dead letter does. Many, by a
filter, are a run: it keeps places in the line for all of them at its beginning, so that whatever
arrives later comes after them, and queues them in transactions of bounded size. The operator log
holds its beginning and how far it has come, in the same transactions: a run that was interrupted
goes on exactly there.

Order: nothing that waits is overtaken while its source is paused. Otherwise events that arrive
during the run may be sent before older ones of their object.

What was redacted has nothing left to send: it is left out, and counted.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Select, func, select, true
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.core.errors import ConfigError, UnusableEvent
from relay.core.event import peek
from relay.core.routing import key_of, lane_of, record_key
from relay.store import redactions
from relay.store.events import (
    BATCH,
    Filter,
    Operator,
    conditions_on_events,
    events_view,
    is_impossible,
    log,
    told,
)
from relay.store.frozen import OPERATOR_HOLDS_LANES
from relay.store.redaction_tables import IS_REDACTED, redaction
from relay.store.runs import EVENTS, hold, last_details
from relay.store.tables import inbox, receipt
from relay.store.text import is_storable

SETTLED = ("delivered", "skipped")


class Choice(msgspec.Struct, frozen=True):
    """Which settled events: the filter's, those with a record in a topic where one is given."""

    wanted: Filter
    topic: str | None = None


class Run(msgspec.Struct, frozen=True):
    """A replay of many, as far as it has come.

    Of the events with inbox ids up to ``last`` those up to ``done`` are queued, ``queued`` of them;
    the next gets the place ``number``, and what waited before goes to ``tail``. ``redacted`` were
    left out. ``matched`` fitted at the beginning.
    """

    replay_id: str
    choice: Choice
    first: int
    last: int
    done: int
    number: int
    tail: int
    queued: int
    finished: bool = False
    cancelled: bool = False
    background: bool = False
    redacted: int = 0
    matched: int = 0


class Again(msgspec.Struct, frozen=True):
    """A replay of a few. ``overtaken`` are those of whose object a newer event was delivered.

    ``redacted`` cannot be sent again.
    """

    replay_id: str
    queued: tuple[int, ...]
    overtaken: tuple[int, ...]
    redacted: tuple[int, ...] = ()


def new_replay_id() -> str:
    return "rpl_" + secrets.token_hex(12)


def line_of(object_id: str | None, body: bytes) -> tuple[int, int]:
    """The lane and the hash of the key of a stored event, whose body counts without an object id.

    Raises UnusableEvent for a body that is no event.
    """
    if object_id is not None:
        return lane_of(key_of(object_id))
    return lane_of(record_key(peek(body)))


def _conditions(choice: Choice) -> list[ColumnElement[bool]]:
    if choice.wanted.state not in SETTLED:
        raise ConfigError(f"only what is {' or '.join(SETTLED)} can be sent again")
    conditions = conditions_on_events(choice.wanted)
    if choice.topic is not None:
        if not is_storable(choice.topic):
            raise ConfigError("no topic has such a name")
        proof = select(receipt.c.inbox_id).where(
            receipt.c.inbox_id == events_view.c.id,
            receipt.c.received_at == events_view.c.received_at,
            receipt.c.topic == choice.topic,
        )
        conditions.append(proof.exists())
    return conditions


async def count(connection: AsyncConnection, choice: Choice) -> int:
    """How many events fit now."""
    found: int = (await connection.execute(_count(choice))).scalar_one()
    return found


def _count(choice: Choice, *more: ColumnElement[bool]) -> Select[int]:
    wanted, conditions = choice.wanted, [*_conditions(choice), *more]
    if wanted.object is None or is_impossible(wanted):
        return select(func.count()).select_from(events_view).where(*conditions)
    # Those of one object by its own index, and each by a look-up of its own: among ten million the
    # planner went through all that are delivered, now and then.
    each = select(inbox.c.id).where(inbox.c.object_id == wanted.object).subquery()
    fitting = select(events_view.c.id).where(events_view.c.id == each.c.id, *conditions)
    one = fitting.offset(0).lateral()
    return select(func.count()).select_from(each.join(one, true()))


async def count_redacted(connection: AsyncConnection, choice: Choice) -> int:
    """How many of those were redacted, and will be left out."""
    if not await redactions.is_possible(connection):
        return 0
    # To count all once more takes as long as the first time.
    is_any = select(select(redaction.c.inbox_id).exists())
    if not (await connection.execute(is_any)).scalar_one():
        return 0
    proof = select(redaction.c.inbox_id).where(
        redaction.c.inbox_id == events_view.c.id,
        redaction.c.received_at == events_view.c.received_at,
    )
    found: int = (await connection.execute(_count(choice, proof.exists()))).scalar_one()
    return found


async def unpaused_sources(connection: AsyncConnection, choice: Choice) -> list[str]:
    """The names of the sources that a replay would touch and that are not paused."""
    rows = await connection.execute(
        sql(
            "SELECT name FROM relay.source WHERE deleted_at IS NULL AND paused_at IS NULL"
            " AND (CAST(:name AS text) IS NULL OR name = :name) ORDER BY name"
        ),
        {"name": choice.wanted.source},
    )
    return list(rows.scalars())


async def begin(
    connection: AsyncConnection,
    choice: Choice,
    matched: int,
    operator: Operator,
    *,
    background: bool = False,
) -> Run:
    """Keep places in the line for ``matched`` events, and write the run down.

    With ``background`` the processes with the role admin go on with it.

    Raises what PostgreSQL raises when the line is not to be had within two seconds.
    """
    # Whoever is storing an event has committed then, and who comes later draws a later number:
    # every event is either in this run's sight or behind its places.
    await connection.execute(sql("SET LOCAL lock_timeout = '2s'"))
    await connection.execute(sql("LOCK TABLE relay.queue IN SHARE MODE"))
    places = await connection.execute(
        sql(
            """
            WITH waiting AS (SELECT count(*) AS rows FROM relay.queue), drawn AS (
                SELECT nextval('relay.arrival') AS number
                FROM waiting, generate_series(0, :matched + 2 * waiting.rows))
            SELECT min(number) AS first, max(number) - (SELECT rows FROM waiting) AS tail FROM drawn
            """
        ),
        {"matched": matched},
    )
    first, tail = places.one()
    run = Run(
        replay_id=new_replay_id(),
        choice=choice,
        first=first,
        last=first,
        done=0,
        number=first + 1,
        tail=tail,
        queued=0,
        matched=matched,
        background=background,
    )
    await _write_down(connection, run, operator)
    return run


async def find_run(connection: AsyncConnection, replay_id: str) -> Run | None:
    """A run as the operator log knows it."""
    details = await last_details(connection, EVENTS, replay_id, "choice")
    return None if details is None else msgspec.convert(details, Run)


async def cancel(connection: AsyncConnection, replay_id: str, operator: Operator) -> bool:
    """End a run with what it has queued, which is sent. False when it is finished already."""
    await hold(connection, replay_id)
    run = await find_run(connection, replay_id)
    if run is None or run.finished:
        return False
    await _move_behind(connection, run)
    ended = msgspec.structs.replace(run, finished=True, cancelled=True)
    await _write_down(connection, ended, operator)
    return True


async def _write_down(connection: AsyncConnection, run: Run, operator: Operator) -> None:
    await log(connection, operator, EVENTS, run.replay_id, msgspec.to_builtins(run))


async def queue_some(
    connection: AsyncConnection, run: Run, operator: Operator, *, limit: int = BATCH
) -> Run:
    """Queue what fits of the next ``limit`` events; the run is finished when there are none.

    It goes on from where the operator log says, whoever has brought it there: what two go on with
    at once is not queued twice.
    """
    await hold(connection, run.replay_id)
    run = await find_run(connection, run.replay_id) or run
    if run.finished:
        return run
    page = (await connection.execute(_page(run, limit))).all()
    if not page:
        await _move_behind(connection, run)
        after = msgspec.structs.replace(run, finished=True)
    else:
        fitting = await connection.execute(
            select(events_view.c.id, events_view.c.received_at)
            .where(*_conditions(run.choice), events_view.c.id.in_([row.id for row in page]))
            .order_by(events_view.c.id)
        )
        rows = [tuple(row) for row in fitting]
        places = range(run.number, run.number + len(rows))
        queued, redacted = await _queue(connection, rows, run.replay_id, places)
        after = msgspec.structs.replace(
            run,
            done=page[-1].id,
            number=run.number + len(rows),
            queued=run.queued + len(queued),
            redacted=run.redacted + len(redacted),
        )
    await _write_down(connection, after, operator)
    return after


def _page(run: Run, limit: int) -> Select[Any]:
    """The next events of the inbox, whether they fit or not.

    Asked of the inbox, whose key they come by: a page of the view is read anew from the beginning.
    """
    c, wanted = inbox.c, run.choice.wanted
    page = select(c.id, c.received_at).where(c.id > run.done, c.id <= run.last)
    if wanted.since is not None:
        page = page.where(c.received_at >= wanted.since)
    if wanted.until is not None:
        page = page.where(c.received_at < wanted.until)
    if wanted.object is None:
        return page.order_by(c.id).limit(limit)
    # One object's events come by their own index, and not by looking through all others.
    return page.where(c.object_id == wanted.object).order_by(c.id + 0).limit(limit)


_LOCK_WAITING = """
SELECT FROM relay.lane WHERE (source_id, lane) IN
    (SELECT source_id, lane FROM relay.queue WHERE number < :first AND kind = 0)
ORDER BY source_id, lane FOR NO KEY UPDATE
"""

# What waited when the run began goes behind it, where it belongs to the same object.
_MOVE_BEHIND = """
UPDATE relay.queue q SET number = m.place
FROM (
    SELECT w.source_id, w.lane, w.number,
           :tail - 1 + row_number() OVER (ORDER BY w.number) AS place
    FROM relay.queue w JOIN relay.source s ON s.id = w.source_id
    WHERE w.number < :first AND w.kind = 0 AND w.number IS DISTINCT FROM s.halted_number
      AND EXISTS (SELECT FROM relay.queue r WHERE r.source_id = w.source_id AND r.lane = w.lane
                  AND r.key_hash = w.key_hash AND r.replay_id = :replay_id)
) m
WHERE q.source_id = m.source_id AND q.lane = m.lane AND q.number = m.number
"""


async def _move_behind(connection: AsyncConnection, run: Run) -> None:
    await connection.execute(sql(OPERATOR_HOLDS_LANES))
    await connection.execute(sql(_LOCK_WAITING), {"first": run.first})
    given = {"first": run.first, "replay_id": run.replay_id, "tail": run.tail}
    await connection.execute(sql(_MOVE_BEHIND), given)


_READ = f"""
SELECT i.id, i.received_at, i.source_id, i.object_id, octet_length(i.body) AS bytes,
       {IS_REDACTED} AS is_redacted,
       CASE WHEN i.object_id IS NULL THEN i.body END AS body
FROM unnest(CAST(:ids AS bigint[]), CAST(:moments AS timestamptz[])) AS w (id, received_at)
CROSS JOIN LATERAL (
    SELECT * FROM relay.inbox i WHERE i.id = w.id AND i.received_at = w.received_at LIMIT 1
) i
JOIN relay.source s ON s.id = i.source_id AND s.deleted_at IS NULL
ORDER BY i.id
"""  # noqa: S608 - a constant of ours

_INSERT = """
INSERT INTO relay.queue (source_id, lane, number, inbox_id, received_at, key_hash, bytes, kind,
    replay_id)
SELECT source_id, lane, coalesce(place, nextval('relay.arrival')), id, received_at, key_hash, bytes,
    0, :replay_id
FROM unnest(CAST(:source_ids AS integer[]), CAST(:lanes AS smallint[]), CAST(:places AS bigint[]),
            CAST(:ids AS bigint[]), CAST(:moments AS timestamptz[]), CAST(:hashes AS bigint[]),
            CAST(:bytes AS integer[])) WITH ORDINALITY
    AS g (source_id, lane, place, id, received_at, key_hash, bytes, ordinal)
ORDER BY ordinal
ON CONFLICT (inbox_id, kind) DO NOTHING
RETURNING inbox_id
"""


async def _queue(
    connection: AsyncConnection,
    events: Sequence[tuple[Any, ...]],
    replay_id: str,
    places: Sequence[int | None],
) -> tuple[list[int], list[int]]:
    """Queue events, given by id and time of arrival; those that wait already are passed over.

    Returns which were queued, and which were redacted and cannot be.
    """
    if not events:
        return [], []
    ids, moments = zip(*events, strict=True)
    place_of = dict(zip(ids, places, strict=True))
    found = await connection.execute(sql(_READ), {"ids": list(ids), "moments": list(moments)})
    rows = []
    redacted = []
    for row in found.all():
        if row.is_redacted:
            redacted.append(row.id)
            continue
        try:
            lane, key_hash = line_of(row.object_id, row.body)
        except UnusableEvent:
            continue  # skipped for what it is: it has no line
        place = place_of[row.id]
        rows.append((row.source_id, lane, place, row.id, row.received_at, key_hash, row.bytes))
    if not rows:
        return [], redacted
    names = ("source_ids", "lanes", "places", "ids", "moments", "hashes", "bytes")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    done = await connection.execute(sql(_INSERT), columns | {"replay_id": replay_id})
    return sorted(done.scalars()), redacted


_OVERTAKEN = """
SELECT i.id FROM relay.inbox i
WHERE i.id = ANY (:ids) AND i.object_id IS NOT NULL AND EXISTS (
    SELECT FROM relay.inbox n JOIN relay.receipt t
        ON t.inbox_id = n.id AND t.received_at = n.received_at
    WHERE n.object_id = i.object_id AND n.source_id = i.source_id
      AND n.account IS NOT DISTINCT FROM i.account AND n.id > i.id AND n.id <> ALL (:ids)
      AND t.topic IS NOT NULL AND t.kind = 0)
ORDER BY i.id
"""


async def replay(
    connection: AsyncConnection, events: Sequence[tuple[Any, ...]], operator: Operator
) -> Again:
    """Queue a few settled events, given by id and time of arrival, in the order of arrival."""
    replay_id = new_replay_id()
    queued, redacted = await _queue(connection, sorted(events), replay_id, [None] * len(events))
    rows = await connection.execute(sql(_OVERTAKEN), {"ids": queued})
    details = {"queued": told(queued), "redacted": told(redacted)}
    await log(connection, operator, EVENTS, replay_id, details)
    return Again(replay_id, tuple(queued), tuple(rows.scalars()), tuple(redacted))
