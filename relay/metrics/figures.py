"""The figures that the database tells, in groups that are read and can fail by themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.metrics.families import Family, Values, gauge
from relay.store import partitions, schema, status, vitals


class Group(msgspec.Struct, frozen=True):
    """``read`` returns the values of ``families``, in their order."""

    name: str
    families: tuple[Family, ...]
    read: Callable[[AsyncConnection], Awaitable[Sequence[Values]]]


_OF_SERVER: Final = (
    gauge("relay_database_clock_offset_seconds", "How far its clock is ahead of ours."),
    gauge(
        "relay_database_oldest_transaction_seconds",
        "Age of the oldest transaction that holds back vacuum.",
    ),
    gauge("relay_database_dead_rows", "Rows that vacuum has not removed yet.", "table"),
)
_OF_SCHEMA: Final = (gauge("relay_database_schema_revision", "Revision of the schema found."),)
_OF_PARTITIONS: Final = (
    gauge("relay_inbox_partitions_ahead_seconds", "For how long there are partitions."),
    gauge("relay_inbox_partitions_overdue", "Partitions of which the retention has passed."),
)
_OF_BATCHES: Final = (
    gauge("relay_queue_batches_in_flight", "Batches in hand anywhere, resting ones included."),
    gauge("relay_queue_lanes_resting", "Lanes that rest because their process was lost."),
    gauge("relay_queue_rows_estimate", "Rows of the queue, as PostgreSQL estimates them."),
)
_OF_SOURCES: Final[Mapping[Family, Callable[[Mapping[str, Any]], float | None]]] = {
    gauge("relay_source_pending_events", "Events that wait.", "source"): itemgetter("pending"),
    gauge("relay_source_retrying_events", "Events that wait after a failure.", "source"): (
        itemgetter("retrying")
    ),
    gauge("relay_source_oldest_pending_seconds", "Age of the oldest that waits.", "source"): (
        itemgetter("oldest_pending_seconds")
    ),
    gauge("relay_source_dead_letters", "Open dead letters.", "source"): itemgetter("dead"),
    gauge("relay_source_halted", "1 while it stands still at an event.", "source"): (
        lambda row: row["halted_at"] is not None
    ),
    gauge("relay_source_paused", "1 while it is paused.", "source"): (
        lambda row: row["paused_at"] is not None
    ),
    gauge("relay_source_insecure", "1 when its signatures are not verified.", "source"): (
        itemgetter("insecure")
    ),
}


async def _read_server(connection: AsyncConnection) -> Sequence[Values]:
    dead = await vitals.dead_tuples(connection)
    return (
        await vitals.clock_offset_seconds(connection),
        await vitals.oldest_transaction_seconds(connection),
        [((table,), rows) for table, rows in dead.items()],
    )


async def _read_schema(connection: AsyncConnection) -> Sequence[Values]:
    return ((await schema.revision_status(connection)).revision,)


async def _read_batches(connection: AsyncConnection) -> Sequence[Values]:
    rows = await status.queued_rows(connection)
    # Asked for first: the server would log every refusal.
    if not await status.may_read_notes(connection):
        return None, None, rows
    return len(await status.batches(connection)), await status.resting_lanes(connection), rows


async def _read_sources(connection: AsyncConnection) -> Sequence[Values]:
    rows = await status.lag(connection)
    return [[((row["source"],), of(row)) for row in rows] for of in _OF_SOURCES.values()]


def groups(retention_days: int) -> tuple[Group, ...]:
    """The dearest last: the figures before it are not held up by it."""

    async def read_partitions(connection: AsyncConnection) -> Sequence[Values]:
        days = await status.partitions_ahead_days(connection)
        return (
            None if days is None else days * 86_400,
            await partitions.count_overdue(connection, retention_days=retention_days, grace_days=0),
        )

    return (
        Group("schema", _OF_SCHEMA, _read_schema),
        Group("server", _OF_SERVER, _read_server),
        Group("partitions", _OF_PARTITIONS, read_partitions),
        Group("batches", _OF_BATCHES, _read_batches),
        Group("sources", tuple(_OF_SOURCES), _read_sources),
    )
