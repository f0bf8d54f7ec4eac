"""Looking at events, and what an operator can do with one that waits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    column,
    false,
    func,
    insert,
    literal_column,
    select,
    table,
)
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from relay.core.errors import ConfigError
from relay.store.frozen import OPERATOR_HOLDS_LANES
from relay.store.tables import operator_log
from relay.store.text import is_storable, storable

State = Literal["pending", "retrying", "dead", "skipped", "delivered"]
STATES: tuple[State, ...] = ("pending", "retrying", "dead", "skipped", "delivered")
BATCH = 1000
"""What is changed in one transaction, where many are."""
_IDS_IN_LOG = 100

EVENT_COLUMNS = (
    "id",
    "source",
    "event_id",
    "event_type",
    "object_type",
    "object_id",
    "account",
    "livemode",
    "api_version",
    "event_created",
    "received_at",
    "origin",
    "state",
    "attempts",
    "next_attempt_at",
    "last_error_code",
    "last_error",
    "settled_at",
    "skip_reason",
    "body_sha256",
    "body_bytes",
)
# With its type: of untyped ones SQLAlchemy casts a list of ids by the first of them.
_ID, *_OTHERS = EVENT_COLUMNS
events_view = table("events", column(_ID, BigInteger), *map(column, _OTHERS), schema="relay")
_deliveries = table(
    "deliveries",
    *map(
        column,
        (
            "event_id",
            "inbox_id",
            "topic",
            "partition",
            "offset",
            "key",
            "op",
            "produced_at",
            "source",
            "kind",
            "record",
            "attempts",
            "replay_id",
        ),
    ),
    schema="relay",
)


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events (or dead letters) are meant. Everything that is given must fit.

    ``type`` may contain ``*``. ``since`` and ``until`` bound the time of arrival (for dead
    letters that of the death): from ``since`` on, before ``until``.
    """

    source: str | None = None
    type: str | None = None
    object: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    state: State | None = None
    error: str | None = None
    event_id: str | None = None
    inbox_id: int | None = None


class Operator(msgspec.Struct, frozen=True):
    """Who acts, and why; both go to the operator log."""

    who: str
    reason: str | None


def like(pattern: str) -> str:
    """A LIKE pattern of a wildcard with ``*``."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")


def is_impossible(wanted: Filter) -> bool:
    """Whether a text is asked for that PostgreSQL cannot hold: nothing fits, and it cannot ask."""
    texts = (wanted.source, wanted.type, wanted.object, wanted.error, wanted.event_id)
    return not all(is_storable(text) for text in texts if text is not None)


def conditions_on(
    wanted: Filter,
    columns: ReadOnlyColumnCollection[str, Any],
    *,
    inbox_id: str,
    error: str,
    moment: str,
) -> list[ColumnElement[bool]]:
    """What the filters of events and of dead letters have in common; not yet object and state.

    ``inbox_id``, ``error`` and ``moment`` are the names that these columns have.
    """
    equal = {
        "source": wanted.source,
        "event_id": wanted.event_id,
        inbox_id: wanted.inbox_id,
        error: wanted.error,
    }
    conditions = [columns[name] == value for name, value in equal.items() if value is not None]
    if wanted.type is not None:
        conditions.append(columns["event_type"].like(like(wanted.type)))
    if wanted.since is not None:
        conditions.append(columns[moment] >= wanted.since)
    if wanted.until is not None:
        conditions.append(columns[moment] < wanted.until)
    return conditions


def conditions_on_events(wanted: Filter) -> list[ColumnElement[bool]]:
    if is_impossible(wanted):
        return [false()]
    c = events_view.c
    conditions = conditions_on(
        wanted, c, inbox_id="id", error="last_error_code", moment="received_at"
    )
    if wanted.state is not None:
        if wanted.state not in STATES:
            raise ConfigError(f"no state {wanted.state!r}; states are {', '.join(STATES)}")
        # A literal, not a parameter: the planner leaves out the branches of the other states.
        conditions.append(c.state == literal_column(f"'{wanted.state}'"))
    if wanted.object is not None:
        conditions.append(c.object_id == wanted.object)
    return conditions


async def now(connection: AsyncConnection) -> datetime:
    """The clock that arrivals and deaths are told by."""
    moment: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return moment


async def list_events(
    connection: AsyncConnection,
    wanted: Filter,
    *,
    limit: int = 50,
    before_id: int | None = None,
) -> list[dict[str, Any]]:
    """Events that fit, the newest first; ``before_id`` continues a listing."""
    statement = (
        select(events_view).where(*conditions_on_events(wanted)).order_by(events_view.c.id.desc())
    )
    if before_id is not None:
        statement = statement.where(events_view.c.id < before_id)
    rows = await connection.execute(statement.limit(limit))
    return [dict(row._mapping) for row in rows]


async def find_ids(connection: AsyncConnection, wanted: Filter) -> list[int]:
    """The inbox ids of all events that fit, in the order of arrival."""
    statement = (
        select(events_view.c.id).where(*conditions_on_events(wanted)).order_by(events_view.c.id)
    )
    return list((await connection.execute(statement)).scalars())


async def show_events(connection: AsyncConnection, wanted: Filter) -> list[dict[str, Any]]:
    """The events that fit (an event id may have come to several sources), with their proofs.

    Each has ``deliveries``, ``failures``, ``signature_header`` and ``body`` (bytes) besides the
    columns of the view.
    """
    found = await list_events(connection, wanted)
    for event in found:
        inbox_id, received_at = event["id"], event["received_at"]
        deliveries = await connection.execute(
            select(_deliveries)
            .where(_deliveries.c.event_id == event["event_id"], _deliveries.c.inbox_id == inbox_id)
            .order_by(_deliveries.c.produced_at, _deliveries.c.record)
        )
        event["deliveries"] = [dict(row._mapping) for row in deliveries]
        failures = await connection.execute(
            sql(
                "SELECT failed_at, error_code, error FROM relay.attempt"
                " WHERE inbox_id = :inbox_id ORDER BY id"
            ),
            {"inbox_id": inbox_id},
        )
        event["failures"] = [dict(row._mapping) for row in failures]
        received = await connection.execute(
            sql(
                "SELECT signature_header, body FROM relay.inbox"
                " WHERE id = :id AND received_at = :received_at"
            ),
            {"id": inbox_id, "received_at": received_at},
        )
        event |= dict(received.one()._mapping)
    return found


async def retry(
    connection: AsyncConnection,
    inbox_ids: Sequence[int],
    operator: Operator,
    wanted: Filter | None = None,
) -> int:
    """Try waiting events now; frees a source that halted at one. Returns how many were waiting.

    Events that are being settled at this moment are passed over. ``wanted`` is the filter that
    they were chosen by, for the operator log.
    """
    # Never waits for a row: a batch locks its rows in another order, and would deadlock with us.
    rows = await connection.execute(
        sql(
            """
            WITH waiting AS (
                SELECT source_id, lane, number FROM relay.queue
                WHERE inbox_id = ANY (:ids) AND kind = 0 FOR UPDATE SKIP LOCKED
            )
            UPDATE relay.queue q SET visible_at = NULL FROM waiting w
            WHERE q.source_id = w.source_id AND q.lane = w.lane AND q.number = w.number
            RETURNING q.number, q.inbox_id
            """
        ),
        {"ids": list(inbox_ids)},
    )
    waiting = rows.all()
    await _free_halted(connection, [row.number for row in waiting])
    done = [row.inbox_id for row in waiting]
    await log(connection, operator, "event.retry", f"{len(done)} events", told(done, wanted))
    return len(done)


async def skip(
    connection: AsyncConnection,
    inbox_ids: Sequence[int],
    operator: Operator,
    wanted: Filter | None = None,
) -> int:
    """Give waiting events up: a receipt says ``discarded``. Returns how many were waiting.

    Waits for the batch that an event may be in, so that it is either delivered or skipped.
    ``wanted`` is the filter that they were chosen by, for the operator log.
    """
    await _lock_lanes_of(connection, inbox_ids)
    done = await discard_waiting(connection, inbox_ids)
    await log(connection, operator, "event.skip", f"{len(done)} events", told(done, wanted))
    return len(done)


async def discard_waiting(
    connection: AsyncConnection, inbox_ids: Sequence[int], why: str = "discarded"
) -> list[int]:
    """Take waiting events out of the line, with a receipt that says why; returns their ids.

    The caller has locked their lanes.
    """
    given = {"ids": list(inbox_ids), "why": why}
    gone = (await connection.execute(sql(_DISCARD_QUEUED), given)).all()
    await _free_halted(connection, [row.number for row in gone])
    return [row.inbox_id for row in gone]


# A receipt only where the event is still there: a partition may have been detached by hand.
_DISCARD_QUEUED = """
WITH gone AS (
    DELETE FROM relay.queue WHERE inbox_id = ANY (:ids) AND kind = 0
    RETURNING inbox_id, received_at, number, attempts, replay_id
), proof AS (
    INSERT INTO relay.receipt
        (inbox_id, received_at, number, record, kind, attempts, skipped, replay_id, produced_at)
    SELECT inbox_id, received_at, number, 0, 0, attempts, CAST(:why AS text), replay_id,
        clock_timestamp()
    FROM gone WHERE EXISTS (SELECT FROM relay.inbox i
                            WHERE i.id = gone.inbox_id AND i.received_at = gone.received_at)
)
SELECT number, inbox_id FROM gone
"""


async def _lock_lanes_of(connection: AsyncConnection, inbox_ids: Sequence[int]) -> None:
    await connection.execute(sql(OPERATOR_HOLDS_LANES))
    await connection.execute(
        sql(
            "SELECT FROM relay.lane WHERE (source_id, lane) IN"
            " (SELECT source_id, lane FROM relay.queue WHERE inbox_id = ANY (:ids))"
            " ORDER BY source_id, lane FOR NO KEY UPDATE"
        ),
        {"ids": list(inbox_ids)},
    )


async def _free_halted(connection: AsyncConnection, numbers: Sequence[int]) -> None:
    await connection.execute(
        sql(
            "UPDATE relay.source SET halted_at = NULL, halted_code = NULL, halted_error = NULL,"
            " halted_number = NULL WHERE halted_number = ANY (:numbers)"
        ),
        {"numbers": list(numbers)},
    )


async def discard_source(
    connection: AsyncConnection, source_id: int, operator: Operator
) -> tuple[int, int]:
    """Give up all that is unfinished of a source; returns how many events and dead letters."""
    await connection.execute(sql(OPERATOR_HOLDS_LANES))
    await connection.execute(
        sql("SELECT FROM relay.lane WHERE source_id = :id ORDER BY lane FOR NO KEY UPDATE"),
        {"id": source_id},
    )
    queued = await connection.execute(
        sql("SELECT inbox_id FROM relay.queue WHERE source_id = :id AND kind = 0"),
        {"id": source_id},
    )
    events = list(queued.scalars())
    await connection.execute(sql(_DISCARD_QUEUED), {"ids": events, "why": "discarded"})
    # The copies for the dead letter topic, too: they would wait for ever.
    await connection.execute(
        sql("DELETE FROM relay.queue WHERE source_id = :id"), {"id": source_id}
    )
    dead = await connection.execute(
        sql(
            "SELECT id FROM relay.dead_letter WHERE source_id = :id"
            " AND replayed_at IS NULL AND discarded_at IS NULL"
        ),
        {"id": source_id},
    )
    closed = await discard_dead_letters(connection, list(dead.scalars()))
    details = {"events": len(events), "dead_letters": len(closed)}
    await log(connection, operator, "source.discard", str(source_id), details)
    return len(events), len(closed)


async def discard_deleted_sources(connection: AsyncConnection) -> int:
    """Give up what deleted sources still have in line; returns how many sources that were.

    A receiver may let a request in for some seconds after the deletion, because it keeps what it
    knows of the sources. Nobody would forward its event, and it would hold its partition for ever.
    """
    left = await connection.execute(
        sql(
            """
            SELECT s.id FROM relay.source s
            WHERE s.deleted_at IS NOT NULL AND (
                EXISTS (SELECT FROM relay.queue q WHERE q.source_id = s.id)
                OR EXISTS (SELECT FROM relay.dead_letter d WHERE d.source_id = s.id
                           AND d.replayed_at IS NULL AND d.discarded_at IS NULL))
            ORDER BY s.id
            """
        )
    )
    source_ids = list(left.scalars())
    for source_id in source_ids:
        await discard_source(connection, source_id, Operator("relay", "its source was deleted"))
    return len(source_ids)


async def discard_dead_letters(
    connection: AsyncConnection, ids: Sequence[int], why: str = "discarded"
) -> list[int]:
    """Close open dead letters for good, with a receipt that says so; returns those that were."""
    rows = await connection.execute(
        sql(
            """
            WITH closed AS (
                UPDATE relay.dead_letter SET discarded_at = clock_timestamp()
                WHERE id = ANY (:ids) AND replayed_at IS NULL AND discarded_at IS NULL
                RETURNING id, inbox_id, received_at, attempts
            ), proof AS (
                INSERT INTO relay.receipt
                    (inbox_id, received_at, number, record, kind, attempts, skipped, produced_at)
                SELECT inbox_id, received_at, nextval('relay.arrival'), 0, 0, attempts,
                    CAST(:why AS text), clock_timestamp()
                FROM closed WHERE EXISTS (SELECT FROM relay.inbox i WHERE i.id = closed.inbox_id
                                          AND i.received_at = closed.received_at)
            )
            SELECT id FROM closed
            """
        ),
        {"ids": list(ids), "why": why},
    )
    return list(rows.scalars())


def told(ids: Sequence[int], wanted: Filter | None = None) -> dict[str, Any]:
    """What the operator log says of those that something was done with.

    A few by their ids. Of many how many, the first and the last: whoever has many calls in
    batches, and each of them has left a proof of its own (a receipt, or its dead letter's times).
    """
    details: dict[str, Any] = {"count": len(ids)}
    if len(ids) > _IDS_IN_LOG:
        details |= {"first": min(ids), "last": max(ids)}
    else:
        details["ids"] = sorted(ids)
    return details if wanted is None else details | {"filter": as_flags(wanted)}


def as_flags(wanted: Filter) -> dict[str, Any]:
    """What was asked for, without what was not."""
    fields: dict[str, Any] = msgspec.to_builtins(wanted)
    return {name: value for name, value in fields.items() if value is not None}


async def log(
    connection: AsyncConnection,
    operator: Operator,
    action: str,
    target: str,
    details: dict[str, Any] | None = None,
) -> None:
    """Write down who did what and why."""
    await connection.execute(
        insert(operator_log).values(
            who=storable(operator.who),
            action=action,
            target=target,
            reason=None if operator.reason is None else storable(operator.reason),
            details=details if details is None else msgspec.to_builtins(details),
        )
    )
