"""What the tables refuse by themselves: changes of evidence, and rows that cannot be true."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from relay.core.routing import LANES
from relay.store import events, inbox, partitions
from relay.store.engine import Database
from tests.store.rows import OPERATOR, bury, deliver, new_event, put, row_of, states, store

# Evidence


@pytest_asyncio.fixture
async def evidence(pg: asyncpg.Connection, database: Database, source_id: int) -> None:
    """A row in each of the tables that are append-only."""
    (stored,) = await store(pg, new_event(source_id))
    await deliver(pg, stored)
    async with database.begin() as connection:
        await events.log(connection, OPERATOR, "look", "at it")


@pytest.mark.usefixtures("evidence")
@pytest.mark.parametrize("change", ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}", "TRUNCATE {0}"])
@pytest.mark.parametrize(
    ("table", "column"), [("inbox", "body"), ("receipt", "topic"), ("operator_log", "who")]
)
async def test_evidence_is_never_changed(
    pg: asyncpg.Connection, table: str, column: str, change: str
) -> None:
    with pytest.raises(asyncpg.RestrictViolationError, match=f"relay.{table}.* refused"):
        await pg.execute(change.format(f"relay.{table}", column))
    assert await pg.fetchval(f"SELECT count(*) FROM relay.{table}") == 1


@pytest.mark.usefixtures("evidence")
@pytest.mark.parametrize("change", ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}", "TRUNCATE {0}"])
@pytest.mark.parametrize(("table", "column"), [("inbox", "body"), ("receipt", "topic")])
async def test_nor_in_a_partition(
    pg: asyncpg.Connection, table: str, column: str, change: str
) -> None:
    partition = (await partitions.list_partitions(pg))[0].suffix
    name = f"relay.{table}_{partition}"
    assert await pg.fetchval(f"SELECT count(*) FROM {name}") == 1
    with pytest.raises(asyncpg.RestrictViolationError, match=f"{name} refused"):
        await pg.execute(change.format(name, column))
    assert await pg.fetchval(f"SELECT count(*) FROM relay.{table}") == 1


@pytest.mark.usefixtures("evidence")
async def test_nor_in_a_partition_that_was_made_later(pg: asyncpg.Connection) -> None:
    later = (await partitions.list_partitions(pg))[-1].upper
    assert await partitions.ensure_ahead(pg, retention_days=0, now=later) > 0
    await pg.execute(
        """
        INSERT INTO relay.inbox (id, received_at, source_id, event_id, origin, body, body_sha256)
        VALUES (1, $1, 1, 'evt_later', 'webhook', '', sha256(''))
        """,
        later,
    )
    for change in ("UPDATE relay.inbox SET body = 'x' WHERE id = 1", "TRUNCATE relay.inbox"):
        with pytest.raises(asyncpg.RestrictViolationError):
            await pg.execute(change)


@pytest.mark.usefixtures("evidence")
async def test_an_update_cannot_move_a_row_to_another_partition(pg: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.RestrictViolationError):
        await pg.execute("UPDATE relay.inbox SET received_at = received_at + interval '31 days'")


# Rows that cannot be true

VALID: dict[str, dict[str, Any]] = {
    "source": {
        "public_id": "src_2",
        "name": "other",
        "resources": ["*"],
        "unselected": "SKIP",
        "default_topic": "unknown",
        "metadata": True,
        "fan_out": [],
        "dlq": True,
        "dlq_topic": "",
        "topic_prefix": "",
        "route_by": "object",
        "tombstones": False,
        "tolerance": 300,
        "mode": "any",
        "insecure": True,
        "signing_secrets": [],
    },
    "api_key": {"source_id": "SOURCE", "sha256": b"x" * 32},
    "inbox": {
        "id": 1_000_000,
        "received_at": "NOW",
        "source_id": "SOURCE",
        "event_id": "evt_1",
        "origin": "webhook",
        "body": b"",
        "body_sha256": b"x" * 32,
    },
    "lane": {"source_id": "SOURCE", "lane": 0},
    "queue": {
        "source_id": "SOURCE",
        "lane": 0,
        "number": 1_000_000,
        "inbox_id": 1_000_000,
        "received_at": "NOW",
        "key_hash": -(2**63),
        "bytes": 2**31 - 1,
    },
    "receipt": {
        "inbox_id": 1_000_000,
        "received_at": "NOW",
        "number": 1_000_000,
        "record": 0,
        "kind": 0,
        "attempts": 0,
        "produced_at": "NOW",
        "topic": "customer",
        "partition": 0,
        "offset": 0,
        "key": "{}",
    },
    "dead_letter": {
        "source_id": "SOURCE",
        "inbox_id": 1_000_000,
        "received_at": "NOW",
        "event_id": "evt_1",
        "error_code": "too_large",
        "error": "",
        "attempts": 1,
    },
    "snapshot": {"id": "snap_1", "source_id": "SOURCE", "state": "running"},
    "snapshot_range": {"snapshot_id": "SNAPSHOT", "resource": "customer", "state": "running"},
    "api_rate": {"account": "a", "endpoint": "/v1/customers"},
    "redaction": {
        "inbox_id": 1_000_000,
        "received_at": "NOW",
        "body_bytes": 1,
        "reason": "request 17",
        "operator": "ann@desk",
    },
    "compatibility": {"revision": 1, "min_compatible": 1},
    "seal": {
        "number": 1,
        "previous": b"x" * 32,
        "sha256": b"y" * 32,
        "day": date(2026, 11, 26),
        "count": 2,
        "first_id": 1,
        "last_id": 2,
        "ids": [1, 2],
        "leaves": b"z" * 64,
        "cluster": -1,
        "xact_until": 700,
        "walk": False,
    },
}

SKIP = {"topic": None, "partition": None, "offset": None, "key": None, "skipped": "discarded"}

# By constraint, the changes that break it.
BROKEN: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "source_unselected_check": ("source", [{"unselected": "skip"}]),
    "source_route_by_check": ("source", [{"route_by": "type"}]),
    "source_mode_check": ("source", [{"mode": "prod"}]),
    "source_tolerance_check": ("source", [{"tolerance": 0}]),
    "source_verified_check": ("source", [{"insecure": False}]),
    "source_halted_check": (
        "source",
        [
            {"halted_at": "NOW"},
            {"halted_code": "no_route"},
            {"halted_number": 1},
            {"halted_at": "NOW", "halted_code": "no_route"},
        ],
    ),
    "source_name_key": ("source", [{"name": "shop"}]),
    "api_key_sha256_check": ("api_key", [{"sha256": b"short"}]),
    "api_key_source_id_fkey": ("api_key", [{"source_id": 999}]),
    "inbox_origin_check": ("inbox", [{"origin": "import"}]),
    "inbox_body_sha256_check": ("inbox", [{"body_sha256": b""}]),
    "inbox_event_created_check": ("inbox", [{"event_created": datetime.max}]),
    "lane_lane_check": ("lane", [{"lane": -1}, {"lane": LANES}]),
    "lane_pkey": ("lane", [{"lane": 0}]),
    "lane_source_id_fkey": ("lane", [{"source_id": 999}]),
    "queue_lane_check": ("queue", [{"lane": -1}, {"lane": LANES}]),
    "queue_kind_check": ("queue", [{"kind": 2}, {"kind": -1}]),
    "queue_counts_check": (
        "queue",
        [{"attempts": -1}, {"crashes": -1}],
    ),
    "queue_reason_check": ("queue", [{"attempts": 1}]),
    "receipt_kind_check": ("receipt", [{"kind": 2}]),
    "receipt_counts_check": ("receipt", [{"record": -1}, {"attempts": -1}]),
    "receipt_settled_check": (
        "receipt",
        [
            {"topic": None},
            {"partition": None},
            {"offset": None},
            {"key": None},
            {"skipped": "discarded"},
            *({**SKIP, name: value} for name, value in {"topic": "t", "key": "k"}.items()),
            {**SKIP, "partition": 0},
            {**SKIP, "offset": 0},
            {**SKIP, "op": "u"},
        ],
    ),
    "receipt_skipped_check": ("receipt", [{**SKIP, "skipped": "bored"}]),
    "dead_letter_origin_check": (
        "dead_letter",
        [
            {"refused_body": b"x"},
            {"inbox_id": None, "received_at": None, "event_id": None},
        ],
    ),
    "dead_letter_event_check": (
        "dead_letter",
        [{"received_at": None}, {"event_id": None}, {"inbox_id": None, "refused_body": b"x"}],
    ),
    "dead_letter_attempts_check": ("dead_letter", [{"attempts": -1}]),
    "dead_letter_closed_once_check": (
        "dead_letter",
        [{"replayed_at": "NOW", "discarded_at": "NOW"}],
    ),
    "snapshot_state_check": ("snapshot", [{"state": "done"}]),
    "snapshot_range_state_check": ("snapshot_range", [{"state": "done"}]),
    "snapshot_range_counts_check": ("snapshot_range", [{"objects": -1}, {"pages": -1}]),
    "api_rate_factor_check": ("api_rate", [{"factor": 0.0}, {"factor": 1.5}]),
    "redaction_body_bytes_check": ("redaction", [{"body_bytes": 0}]),
    "redaction_said_why_check": ("redaction", [{"reason": ""}, {"operator": ""}]),
    "compatibility_singleton_check": ("compatibility", [{"singleton": False}]),
    "compatibility_order_check": ("compatibility", [{"min_compatible": 2}]),
    "compatibility_pkey": ("compatibility", [{}]),
    "seal_hashes_check": ("seal", [{"previous": b""}, {"sha256": b"y" * 31}]),
    "seal_rows_check": ("seal", [{"count": 1}, {"leaves": b"z" * 32}, {"ids": [1]}]),
    "seal_ends_check": ("seal", [{"first_id": None}, {"last_id": None}]),
}


async def insert(pg: asyncpg.Connection, source_id: int, table: str, /, **changes: Any) -> None:
    """A valid row of a table, but for the changes; rolled back unless it is refused."""
    now = await pg.fetchval("SELECT now()")
    transaction = pg.transaction()
    await transaction.start()
    try:
        if table == "snapshot_range":
            await insert_row(pg, "snapshot", VALID["snapshot"] | {"source_id": source_id})
        stand_ins = {"SOURCE": source_id, "NOW": now, "SNAPSHOT": "snap_1"}
        row = {
            name: stand_ins.get(value, value) if isinstance(value, str) else value
            for name, value in (VALID[table] | changes).items()
        }
        await insert_row(pg, table, row)
    finally:
        await transaction.rollback()


async def insert_row(pg: asyncpg.Connection, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(f'"{name}"' for name in row)
    places = ", ".join(f"${place}" for place in range(1, len(row) + 1))
    await pg.execute(f"INSERT INTO relay.{table} ({names}) VALUES ({places})", *row.values())


@pytest.mark.parametrize("table", [name for name in VALID if name not in ("lane", "compatibility")])
async def test_a_row_that_can_be_true_is_taken(
    common_pg: asyncpg.Connection, common_source: int, table: str
) -> None:
    await insert(common_pg, common_source, table)


@pytest.mark.parametrize("constraint", BROKEN)
async def test_a_row_that_cannot_be_true_is_refused(
    common_pg: asyncpg.Connection, common_source: int, constraint: str
) -> None:
    table, wrong = BROKEN[constraint]
    for changes in wrong:
        with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refusal:
            await insert(common_pg, common_source, table, **changes)
        assert refusal.value.constraint_name == constraint, changes


async def test_every_check_is_broken_once(common_pg: asyncpg.Connection) -> None:
    rows = await common_pg.fetch(
        """
        SELECT c.conname FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
        WHERE c.connamespace = 'relay'::regnamespace AND c.contype = 'c' AND NOT t.relispartition
        """
    )
    assert {row["conname"] for row in rows} - set(BROKEN) == set()


async def test_partitions_have_the_checks_of_their_parents(
    pg: asyncpg.Connection, source_id: int
) -> None:
    name = "relay.inbox_" + (await partitions.list_partitions(pg))[0].suffix
    with pytest.raises(asyncpg.CheckViolationError):
        await pg.execute(
            f"INSERT INTO {name} (id, received_at, source_id, event_id, origin, body, body_sha256)"
            " VALUES (1, now(), $1, 'evt_1', 'import', '', sha256(''))",
            source_id,
        )


# An event stands in the line once, and is dead once


async def test_an_event_is_never_queued_twice(pg: asyncpg.Connection, source_id: int) -> None:
    (stored,) = await store(pg, new_event(source_id))
    row = await row_of(pg, stored)
    twice = {"inbox_id": stored, "received_at": row.received_at}
    with pytest.raises(asyncpg.UniqueViolationError):
        await insert(pg, source_id, "queue", **twice)
    await insert(pg, source_id, "queue", **twice, kind=1)


async def test_an_event_has_one_open_dead_letter(pg: asyncpg.Connection, source_id: int) -> None:
    (stored,) = await store(pg, new_event(source_id))
    row = await row_of(pg, stored)
    await bury(pg, stored)
    again = {"inbox_id": stored, "received_at": row.received_at}
    with pytest.raises(asyncpg.UniqueViolationError):
        await insert(pg, source_id, "dead_letter", **again)
    await insert(pg, source_id, "dead_letter", **again, replayed_at="NOW")
    assert await states(pg, stored) == ["dead"]


async def test_an_event_without_a_partition_is_refused_and_not_lost(
    pg: asyncpg.Connection, source_id: int
) -> None:
    """Nobody kept house: the sender is told 503 and comes again."""
    for partition in await partitions.list_partitions(pg):
        await pg.execute(f"DROP TABLE relay.inbox_{partition.suffix}")
        await pg.execute(f"DROP TABLE relay.receipt_{partition.suffix}")
    with pytest.raises(inbox.NoPartitionError):
        await put(pg, new_event(source_id, "evt_1"))
    await partitions.ensure_ahead(pg, retention_days=0)
    assert await put(pg, new_event(source_id, "evt_1")) == [True]
