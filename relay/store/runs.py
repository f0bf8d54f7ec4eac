"""What was sent again, by whom and why, and how far it has come: the operator log keeps it all.

A replay of a few stands there once. A run, which is a replay of many, stands there from its
beginning, with each transaction that brings it further.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

EVENTS: Final = "event.replay"
DEAD_LETTERS: Final = "dead_letter.replay"
_FIRST: Final = datetime(1, 1, 2, tzinfo=UTC)
_LAST: Final = datetime(9999, 12, 30, tzinfo=UTC)


class Told(msgspec.Struct, frozen=True):
    """One replay. ``left_out`` could not be sent: redacted, or no events; ``matched`` are both.

    ``filter`` is what it was chosen by, None for a few that were named. ``updated_at`` is when it
    was brought further the last time. One that was cancelled is finished with what it had queued.
    """

    replay_id: str
    of: Literal["events", "dead letters"]
    reason: str | None
    who: str
    started_at: datetime
    updated_at: datetime
    is_finished: bool
    matched: int
    queued: int
    left_out: int
    filter: dict[str, Any] | None
    is_cancelled: bool = False
    in_background: bool = False
    """The processes with the role admin go on with it by themselves, until it is finished."""


class Progress(msgspec.Struct, frozen=True):
    """What has become of what a replay has queued, by the queue and the receipts."""

    waiting: int
    delivered: int
    skipped: int


async def hold(connection: AsyncConnection, replay_id: str) -> None:
    """Wait for whoever else goes on with the run, and keep others away, until the commit."""
    await connection.execute(
        sql("SELECT pg_advisory_xact_lock(hashtextextended(:replay_id, 0))"),
        {"replay_id": replay_id},
    )


async def last_details(
    connection: AsyncConnection, action: str, replay_id: str, field: str
) -> dict[str, Any] | None:
    """What was written down last of a run that has ``field``; None when there is none."""
    rows = await connection.execute(
        sql(
            "SELECT details FROM relay.operator_log WHERE action = :action AND target = :target"
            " AND details ? :field ORDER BY id DESC LIMIT 1"
        ),
        {"action": action, "target": replay_id, "field": field},
    )
    details: dict[str, Any] | None = rows.scalar_one_or_none()
    return details


_LIST = """
SELECT b.target, b.action, b.who, b.reason, b.at AS started_at, e.at AS updated_at, e.details
FROM (
    SELECT min(id) AS first, max(id) AS last FROM relay.operator_log
    WHERE action = ANY (:actions) AND (CAST(:target AS text) IS NULL OR target = :target)
    GROUP BY target ORDER BY min(id) DESC LIMIT :limit
) l
JOIN relay.operator_log b ON b.id = l.first
JOIN relay.operator_log e ON e.id = l.last
ORDER BY b.id DESC
"""


async def list_replays(connection: AsyncConnection, *, limit: int = 50) -> list[Told]:
    """Replays, the newest first."""
    return await _read(connection, None, limit)


async def find_replay(connection: AsyncConnection, replay_id: str) -> Told | None:
    found = await _read(connection, replay_id, 1)
    return found[0] if found else None


async def _read(connection: AsyncConnection, replay_id: str | None, limit: int) -> list[Told]:
    given = {"actions": [EVENTS, DEAD_LETTERS], "target": replay_id, "limit": limit}
    return [_told(row) for row in await connection.execute(sql(_LIST), given)]


def _told(row: Any) -> Told:
    details, wanted = row.details, None
    if "choice" in details:
        wanted = details["choice"]["wanted"] | {"topic": details["choice"]["topic"]}
        queued, left_out = details["queued"], details["redacted"]
    elif "wanted" in details:
        wanted = details["wanted"]
        queued, left_out = details["queued"], sum(details["refused"].values())
    else:
        queued = _count(details["queued"])
        left_out = sum(_count(each) for each in details.values()) - queued
    return Told(
        replay_id=row.target,
        of="events" if row.action == EVENTS else "dead letters",
        reason=row.reason,
        who=row.who,
        started_at=row.started_at,
        updated_at=row.updated_at,
        is_finished=wanted is None or details["finished"],
        matched=details.get("matched", queued + left_out),
        queued=queued,
        left_out=left_out,
        filter=wanted and {name: value for name, value in wanted.items() if value is not None},
        is_cancelled=details.get("cancelled", False),
        in_background=details.get("background", False),
    )


def _count(ids: dict[str, Any] | list[int]) -> int:
    """Of what `events.told` made of ids; builds before it wrote the ids down."""
    return len(ids) if isinstance(ids, list) else ids["count"]


_UNFINISHED = """
SELECT b.target, b.action, b.who, b.reason, b.at AS started_at, e.at AS updated_at, e.details
FROM (
    SELECT min(id) AS first, max(id) AS last FROM relay.operator_log
    WHERE action = ANY (:actions) AND details @> '{"background": true}' GROUP BY target
) l
JOIN relay.operator_log b ON b.id = l.first
JOIN relay.operator_log e ON e.id = l.last
WHERE NOT (e.details ->> 'finished')::boolean ORDER BY b.id
"""


async def unfinished_in_background(connection: AsyncConnection) -> list[Told]:
    """Replays that somebody has to go on with, the oldest first. Reads the whole operator log."""
    given = {"actions": [EVENTS, DEAD_LETTERS]}
    return [_told(row) for row in await connection.execute(sql(_UNFINISHED), given)]


async def progress(connection: AsyncConnection, replay: Told) -> Progress:
    """How much of a replay waits, and how much is settled.

    Reads through the receipts, those in the time that events were chosen by: a second or more for
    each ten million of them. Those of a few events are found by the events. What is missing to
    ``queued`` is dead again, or its receipts were removed by the retention.
    """
    given = {"replay_id": replay.replay_id, "since": replay.started_at}
    ids = await _ids_of_few(connection, replay)
    if ids is not None:
        statement, given = _PROGRESS_OF_FEW, given | {"ids": ids}
    else:
        statement, given = _PROGRESS, given | _time(replay)
    waiting, delivered, skipped = (await connection.execute(sql(statement), given)).one()
    return Progress(waiting, delivered, skipped)


_PROGRESS_OF_ALL = """
SELECT (SELECT count(*) FROM relay.queue WHERE replay_id = :replay_id AND kind = 0) AS waiting,
       count(*) FILTER (WHERE skipped IS NULL) AS delivered, count(skipped) AS skipped
FROM relay.receipt
WHERE replay_id = :replay_id AND kind = 0 AND record = 0 AND produced_at >= :since
"""
_PROGRESS_OF_FEW = f"{_PROGRESS_OF_ALL} AND inbox_id = ANY (CAST(:ids AS bigint[]))"
_PROGRESS = f"{_PROGRESS_OF_ALL} AND received_at >= :first AND received_at < :end"

# Letters are told by their own ids, events by theirs.
_FEW = """
SELECT CASE action WHEN :events THEN ids ELSE coalesce((
           SELECT array_agg(inbox_id) FROM relay.dead_letter WHERE id = ANY (ids)), '{}') END
FROM relay.operator_log, LATERAL (
    SELECT array_agg(each::bigint) AS ids
    FROM jsonb_array_elements_text(details -> 'queued' -> 'ids') AS each
) AS told
WHERE target = :target AND action = ANY (:actions)
  AND jsonb_typeof(details -> 'queued' -> 'ids') = 'array'
LIMIT 1
"""


async def _ids_of_few(connection: AsyncConnection, replay: Told) -> list[int] | None:
    """The inbox ids of a replay of a few that are written down; None for any other."""
    if replay.filter is not None:
        return None
    given = {"target": replay.replay_id, "actions": [EVENTS, DEAD_LETTERS], "events": EVENTS}
    found = (await connection.execute(sql(_FEW), given)).one_or_none()
    return None if found is None else list(found[0] or ())


def _time(replay: Told) -> dict[str, datetime]:
    """When its events were received; of dead letters it is told when they died."""
    wanted = replay.filter if replay.of == "events" and replay.filter is not None else {}
    since, until = wanted.get("since"), wanted.get("until")
    return {
        "first": _FIRST if since is None else datetime.fromisoformat(since),
        "end": _LAST if until is None else datetime.fromisoformat(until),
    }
