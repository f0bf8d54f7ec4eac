"""The views are the API of the database: their names, columns and descriptions."""

from __future__ import annotations

import asyncpg
import pytest

# Names and columns that users rely on, in this order, with what may follow.
COLUMNS = {
    "events": "id source event_id event_type object_type object_id account livemode api_version"
    " event_created received_at origin state attempts next_attempt_at last_error_code last_error"
    " settled_at body_sha256 body_bytes",
    "deliveries": "event_id inbox_id topic partition offset key op produced_at",
    "dead_letters": "id source inbox_id event_id event_type error_code error attempts dead_at"
    " replayed_at discarded_at body_text",
    "snapshots": "id source state resources api_version livemode created_after created_before"
    " window_until started_at finished_at seconds objects pages requests limited last_error",
    "snapshot_progress": "snapshot_id source resource state objects pages cursor started_at"
    " updated_at finished_at last_error",
    "lag": "source pending retrying dead oldest_pending_seconds",
    "redactions": "inbox_id source event_id event_type object_id received_at body_sha256 body_bytes"
    " redacted_at operator reason",
    "completeness": "source hour event_type stripe_count inbox_count delivered_count dead_count"
    " missing_count checked_at",
}
COLUMNS["pending_events"] = COLUMNS["failed_events"] = COLUMNS["events"]

FUNCTIONS = {"body": "bytea", "body_text": "text"}

_OF_VIEW = """
SELECT a.attname AS name, col_description(a.attrelid, a.attnum) AS comment
FROM pg_attribute a WHERE a.attrelid = to_regclass('relay.' || $1) AND a.attnum > 0
ORDER BY a.attnum
"""


@pytest.mark.parametrize("view", COLUMNS)
async def test_a_view_has_the_columns_that_users_rely_on(
    common_pg: asyncpg.Connection, view: str
) -> None:
    found = [row["name"] for row in await common_pg.fetch(_OF_VIEW, view)]
    assert [name for name in found if name in COLUMNS[view].split()] == COLUMNS[view].split()
    await common_pg.fetch(f"SELECT * FROM relay.{view}")


@pytest.mark.parametrize("view", COLUMNS)
async def test_a_view_and_each_of_its_columns_are_described(
    common_pg: asyncpg.Connection, view: str
) -> None:
    about = await common_pg.fetchval("SELECT obj_description(to_regclass('relay.' || $1))", view)
    assert about.endswith(".")
    comments = {row["name"]: row["comment"] for row in await common_pg.fetch(_OF_VIEW, view)}
    assert {name: text for name, text in comments.items() if not text} == {}


async def test_there_are_no_other_views(common_pg: asyncpg.Connection) -> None:
    found = await common_pg.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'v' AND relnamespace = 'relay'::regnamespace"
    )
    assert {row["relname"] for row in found} == set(COLUMNS)


@pytest.mark.parametrize(("function", "returns"), FUNCTIONS.items())
async def test_functions_are_described(
    common_pg: asyncpg.Connection, function: str, returns: str
) -> None:
    found = await common_pg.fetchrow(
        """
        SELECT pg_get_function_result(oid) AS returns, obj_description(oid) AS comment
        FROM pg_proc WHERE oid = to_regprocedure('relay.' || $1 || '(bigint)')
        """,
        function,
    )
    assert found is not None
    assert found["returns"] == returns
    assert found["comment"].endswith(".")


async def test_the_snapshot_of_a_resource_is_one_row(
    common_pg: asyncpg.Connection, common_source: int
) -> None:
    await common_pg.execute(
        f"""
        INSERT INTO relay.snapshot (id, source_id, state)
        VALUES ('snap_1', {common_source}, 'running');
        INSERT INTO relay.snapshot_range
            (snapshot_id, resource, state, objects, pages, cursor, started_at, updated_at,
             finished_at, last_error)
        VALUES
            ('snap_1', 'customer', 'finished', 3, 1, 'cus_3', '2026-01-01', '2026-01-02',
             '2026-01-02', 'first'),
            ('snap_1', 'customer', 'running', 4, 2, 'cus_9', '2026-01-03', '2026-01-04', NULL,
             NULL),
            ('snap_1', 'charge', 'finished', 0, 1, NULL, '2026-01-01', '2026-01-01', '2026-01-01',
             NULL),
            ('snap_1', 'charge', 'finished', 1, 1, 'ch_1', '2026-01-01', '2026-01-05', '2026-01-05',
             NULL)
        """
    )
    rows = await common_pg.fetch(
        "SELECT resource, state, objects, pages, cursor, finished_at::date::text AS finished,"
        " last_error FROM relay.snapshot_progress ORDER BY resource"
    )
    assert [tuple(row) for row in rows] == [
        ("charge", "finished", 1, 2, "ch_1", "2026-01-05", None),
        ("customer", "running", 7, 3, "cus_9", None, "first"),
    ]
    for state in ("failed", "cancelled", "paused"):
        await common_pg.execute(
            "UPDATE relay.snapshot_range SET state = $1 WHERE cursor = 'cus_9'", state
        )
        found = await common_pg.fetchval(
            "SELECT state FROM relay.snapshot_progress WHERE resource = 'customer'"
        )
        assert found == state
