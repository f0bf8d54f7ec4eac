"""Snapshots as a whole: starting, looking at, pausing, resuming and cancelling them."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any, Literal, get_args

import msgspec
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.core.errors import ConfigError
from relay.core.listings import LISTINGS, Listing
from relay.core.routing import RouteBy
from relay.core.scan import STRIPE_BEGAN
from relay.store.snapshot_tables import snapshot, snapshot_range
from relay.store.text import is_storable

Action = Literal["pause", "resume", "cancel"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot is to read. ``by_parent`` are resources to be listed parent by parent."""

    listings: tuple[tuple[str, Listing], ...]
    """By the resource's name under the source's routing."""
    api_version: str
    livemode: bool
    created_after: datetime | None = None
    created_before: datetime | None = None
    by_parent: frozenset[str] = frozenset()


async def start(connection: AsyncConnection, plan: Plan, source_id: int) -> str:
    """Make a snapshot whose ranges can be claimed from now on; returns its id.

    The window is closed by the first page, since only Stripe knows what time it is there.
    """
    snapshot_id = secrets.token_hex(6)
    await connection.execute(
        insert(snapshot).values(
            id=snapshot_id,
            source_id=source_id,
            state="running",
            api_version=plan.api_version,
            created_after=plan.created_after,
            created_before=plan.created_before,
            resources=[name for name, _ in plan.listings],
            by_parent=sorted(plan.by_parent),
            livemode=plan.livemode,
        )
    )
    await connection.execute(
        insert(snapshot_range),
        [
            _first_range(snapshot_id, name, number, listing, plan)
            for name, listing in plan.listings
            for number in range(len(listing.passes))
        ],
    )
    return snapshot_id


def _first_range(
    snapshot_id: str, name: str, number: int, listing: Listing, plan: Plan
) -> dict[str, object]:
    by_parent = name in plan.by_parent
    # The window asked for is one of the objects, not of their parents.
    has_window = listing.has_created_filter and not by_parent
    return {
        "snapshot_id": snapshot_id,
        "resource": name,
        "pass_": number,
        "state": "running",
        "created_from": plan.created_after if has_window else None,
        "created_until": plan.created_before if has_window else None,
        "parents": [] if by_parent else None,
    }


async def list_snapshots(
    connection: AsyncConnection, *, source: str | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """The newest first, with their counts; ``source`` is a name."""
    found = await connection.execute(
        text(
            """
            SELECT * FROM relay.snapshots
            WHERE CAST(:source AS text) IS NULL OR source = :source
            ORDER BY started_at DESC, id LIMIT :limit
            """
        ),
        {"source": source, "limit": limit},
    )
    return [dict(row._mapping) for row in found]


async def find(connection: AsyncConnection, snapshot_id: str) -> dict[str, Any] | None:
    """One snapshot with its counts."""
    if not is_storable(snapshot_id):
        return None
    found = await connection.execute(
        text("SELECT * FROM relay.snapshots WHERE id = :id"), {"id": snapshot_id}
    )
    row = found.one_or_none()
    return None if row is None else dict(row._mapping)


async def show(connection: AsyncConnection, snapshot_id: str) -> dict[str, Any]:
    """One snapshot with its counts. Raises ConfigError when there is none of that id."""
    found = await find(connection, snapshot_id)
    if found is None:
        raise ConfigError(
            f"there is no snapshot {snapshot_id!r}: `relay snapshot list` shows which there are"
        )
    return found


def share_read(row: dict[str, Any]) -> float | None:
    """Of a row of ``progress``: how much of the time in question is behind the cursors, 0 to 1."""
    if row["state"] == "finished":
        return 1.0
    if row["read_seconds"] is None:
        return None
    total = row["read_seconds"] + row["unread_seconds"]
    return float(row["read_seconds"] / max(total, 1))


_TIMELESS = [
    listing.name(route_by)
    for listing in LISTINGS
    if not listing.has_created_filter
    for route_by in get_args(RouteBy)
]


async def progress(connection: AsyncConnection, snapshot_id: str) -> list[dict[str, Any]]:
    """One row per resource: counts, what it waits for, and how much of its time has been read.

    ``read_seconds`` of creation times lie behind the cursors and ``unread_seconds`` before them.
    What was found to be empty is neither: most of the time since Stripe began is, for most
    accounts. Both are None before the first page, and for a list that has no filter by time.
    """
    found = await connection.execute(
        text(
            """
            SELECT p.resource, p.state, p.objects, p.pages, p.started_at, p.updated_at,
                   p.finished_at, p.last_error, g.requests, g.limited, g.ranges, g.open_ranges,
                   g.waits_for, g.wait_until, g.read_seconds, g.unread_seconds
            FROM relay.snapshot_progress p
            JOIN (
                SELECT snapshot_id, resource, sum(requests)::bigint AS requests,
                       sum(limited)::bigint AS limited, count(*) AS ranges,
                       count(*) FILTER (WHERE state = 'running') AS open_ranges,
                       (array_agg(wait_reason ORDER BY wait_until)
                            FILTER (WHERE waits))[1] AS waits_for,
                       min(wait_until) FILTER (WHERE waits) AS wait_until,
                       sum(extract(epoch FROM created_until - coalesce(last_created, created_until))
                           ) FILTER (WHERE in_time)::float8 AS read_seconds,
                       sum(CASE WHEN state = 'finished' THEN 0 ELSE
                               extract(epoch FROM coalesce(last_created, created_until)
                                       - coalesce(created_from, oldest)) END
                           ) FILTER (WHERE in_time)::float8 AS unread_seconds
                FROM relay.snapshot_range, to_timestamp(:oldest) AS oldest,
                     LATERAL (  -- one without a reason is being read
                         SELECT wait_until > clock_timestamp() AND wait_reason IS NOT NULL AS waits,
                                parents IS NOT NULL OR resource <> ALL (:timeless) AS in_time
                     ) w
                WHERE snapshot_id = :id GROUP BY snapshot_id, resource
            ) g ON g.snapshot_id = p.snapshot_id AND g.resource = p.resource
            WHERE p.snapshot_id = :id ORDER BY p.resource
            """
        ),
        {"id": snapshot_id, "oldest": STRIPE_BEGAN, "timeless": _TIMELESS},
    )
    return [dict(row._mapping) for row in found]


_CHANGES: dict[Action, tuple[str, tuple[str, ...]]] = {
    "pause": ("paused", ("running",)),
    "resume": ("running", ("paused", "failed")),
    "cancel": ("cancelled", ("running", "paused")),
}


async def change(connection: AsyncConnection, snapshot_id: str, action: Action) -> bool:
    """Pause, resume or cancel; waits for the pages in hand. False when nothing could change.

    A resumed range goes on where it stood. Raises ConfigError when there is no such snapshot.
    """
    await show(connection, snapshot_id)
    state, before = _CHANGES[action]
    change_ranges = text(
        """
        UPDATE relay.snapshot_range
        SET state = :state, failures = 0, wait_until = NULL, wait_reason = NULL,
            updated_at = clock_timestamp(),
            last_error = CASE WHEN :state = 'running' THEN NULL ELSE last_error END
        WHERE snapshot_id = :id AND state = ANY (:before)
        """
    )
    given = {"id": snapshot_id, "state": state, "before": list(before)}
    # The ranges first, as the readers do, who hold theirs when they come to the snapshot.
    ranges = await connection.execute(change_ranges, given)
    whole = await connection.execute(
        text(
            """
            UPDATE relay.snapshot
            SET state = :state,
                finished_at = CASE WHEN :state = 'cancelled' THEN clock_timestamp() END,
                last_error = CASE WHEN :state = 'running' THEN NULL ELSE last_error END
            WHERE id = :id AND state = ANY (:before)
            """
        ),
        given,
    )
    # Those that a reader split off while we waited for it; now that we hold the snapshot, none do.
    await connection.execute(change_ranges, given)
    return bool(ranges.rowcount or whole.rowcount)


async def cancel_all(connection: AsyncConnection, source_id: int) -> int:
    """Cancel what is not at its end of a source that is deleted; returns how many."""
    found = await connection.execute(
        text(
            "SELECT id FROM relay.snapshot WHERE source_id = :id AND state IN ('running', 'paused')"
        ),
        {"id": source_id},
    )
    return sum([await change(connection, row.id, "cancel") for row in found.all()])
