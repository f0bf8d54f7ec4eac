"""How PostgreSQL goes about it: nothing that is asked for often may read the whole inbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import event

from relay.core.source import SourceConfig
from relay.core.transform import StoredEvent
from relay.store import (
    deadletters,
    events,
    inbox,
    listing,
    queue,
    ranges,
    receipts,
    sources,
    traffic,
)
from relay.store.engine import Database
from relay.store.events import Filter
from relay.store.queue import Parking
from relay.store.receipts import Death
from tests.store.rows import OPERATOR, new_event, row_of
from tests.support.databases import Databases
from tests.support.many_events import analyze, fill

ROWS = 60_000


@pytest_asyncio.fixture(scope="module", params=[False, True], ids=["autovacuum", "by hand"])
async def crowded(request: pytest.FixtureRequest, postgres: Databases) -> AsyncIterator[str]:
    """A database with many events in several partitions, for statistics of either kind."""
    url = await postgres.create()
    database = Database(url)
    config = SourceConfig(source_id=0, public_id="", name="shop", insecure=True)
    async with database.begin() as connection:
        made, _ = await sources.create(
            connection, config, sealed_secrets=[], sealed_stripe_key=None
        )
    async with database.driver() as pg:
        await fill(pg, made.config.source_id, ROWS)
        await analyze(pg, parents=request.param)
    await database.close()
    yield url
    await postgres.drop(url)


@pytest_asyncio.fixture
async def crowd(crowded: str) -> AsyncIterator[Database]:
    database = Database(crowded)
    yield database
    await database.close()


@pytest_asyncio.fixture
async def pg(crowd: Database) -> AsyncIterator[asyncpg.Connection]:
    async with crowd.driver() as connection:
        yield connection


@pytest_asyncio.fixture
async def full(pg: asyncpg.Connection) -> set[str]:
    """The partitions that hold many rows. To scan an empty one is no scan."""
    names = await _full(pg)
    assert len(names) >= 6
    return names


async def _full(pg: asyncpg.Connection) -> set[str]:
    # In the first hours of a day its partition is so small that a scan is the best plan.
    found = await pg.fetch(
        "SELECT tableoid::regclass::text AS name FROM relay.inbox GROUP BY 1 HAVING count(*) > 2000"
    )
    return {row["name"].removeprefix("relay.") for row in found}


def nodes(plan: Any) -> Iterator[dict[str, Any]]:
    """All nodes of a plan in JSON."""
    if isinstance(plan, list):
        for each in plan:
            yield from nodes(each)
    elif isinstance(plan, dict):
        if "Node Type" in plan:
            yield plan
        for each in plan.values():
            if isinstance(each, list | dict):
                yield from nodes(each)


async def explain(pg: asyncpg.Connection, sql: str, *arguments: Any) -> list[dict[str, Any]]:
    return list(nodes(await pg.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *arguments)))


async def analyzed(pg: asyncpg.Connection, sql: str, *arguments: Any) -> list[dict[str, Any]]:
    """The plan with what it really did."""
    explained = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}"
    return list(nodes(await pg.fetchval(explained, *arguments)))


async def explain_generic(
    pg: asyncpg.Connection, sql: str, parameters: int
) -> list[dict[str, Any]]:
    """The plan that is kept for any parameters."""
    await pg.execute("SET plan_cache_mode = force_generic_plan")
    await pg.execute(f"PREPARE kept AS {sql}")
    try:
        nothing = ", ".join(["NULL"] * parameters)
        return await explain(pg, f"EXECUTE kept ({nothing})" if parameters else "EXECUTE kept")
    finally:
        await pg.execute("DEALLOCATE kept; RESET plan_cache_mode")


def scanned(plan: Sequence[dict[str, Any]]) -> set[str]:
    """The tables that are read from end to end, by a scan or along an index."""
    return {
        node["Relation Name"]
        for node in plan
        if node["Node Type"] == "Seq Scan"
        or (
            node["Node Type"] in ("Index Scan", "Index Only Scan")
            and node["Relation Name"].startswith("inbox_")
            and "Index Cond" not in node
        )
    }


def sorted_out(plan: Sequence[dict[str, Any]]) -> set[str]:
    """The tables that are read from end to end, and in no order."""
    return {node["Relation Name"] for node in plan if node["Node Type"] == "Seq Scan"}


# Views

EVENT = "SELECT inbox_id FROM relay.event_key WHERE event_id = 'evt_{}'"
LOOKUPS = [
    *(
        f"SELECT * FROM relay.{view} WHERE {condition}"
        for view in ("events", "pending_events", "failed_events")
        for condition in (
            "event_id = 'evt_31007'",
            f"id = ({EVENT.format(31007)})",
            "id = 31007",
            "object_id = 'cus_77'",
            "object_id = 'cus_77' AND source = 'shop'",
            "event_id = 'evt_31007' AND state = 'delivered'",
        )
    ),
    *(f"SELECT * FROM relay.events WHERE state = '{s}'" for s in ("pending", "retrying", "dead")),
    *(f"SELECT count(*) FROM relay.events WHERE state = '{s}'" for s in ("pending", "dead")),
    "SELECT * FROM relay.pending_events",
    "SELECT * FROM relay.failed_events",
    "SELECT * FROM relay.events WHERE last_error_code = 'too_large'",
    "SELECT * FROM relay.deliveries WHERE event_id = 'evt_31007'",
    "SELECT * FROM relay.deliveries WHERE inbox_id = 31007",
    "SELECT * FROM relay.dead_letters",
    "SELECT * FROM relay.dead_letters WHERE event_id = 'evt_31007'",
    "SELECT * FROM relay.lag",
    "SELECT relay.body(31007)",
]


@pytest.mark.parametrize("sql", LOOKUPS)
async def test_a_look_up_never_scans_the_inbox(
    pg: asyncpg.Connection, full: set[str], sql: str
) -> None:
    plan = await explain(pg, sql)
    assert scanned(plan) & full == set()


@pytest.mark.parametrize("columns", ["*", "count(*)"])
async def test_nor_does_it_when_a_seventh_of_all_waits(
    database: Database, source_id: int, columns: str
) -> None:
    """Kafka was away for a while. To probe for each is still less than to read everything."""
    async with database.driver() as pg:
        await fill(pg, source_id, ROWS, waiting=ROWS // 7)
        await analyze(pg, parents=True)
        for table in ("pending_events", "failed_events", "events WHERE state = 'pending'"):
            plan = await explain(pg, f"SELECT {columns} FROM relay.{table}")
            assert scanned(plan) & await _full(pg) == set()


SETTLED = ("skipped", "delivered")
NEWEST = [
    "SELECT * FROM relay.events ORDER BY id DESC LIMIT 50",
    "SELECT * FROM relay.events WHERE source = 'shop' ORDER BY id DESC LIMIT 50",
    "SELECT * FROM relay.events WHERE event_type LIKE 'customer.%' ORDER BY id DESC LIMIT 50",
    *(
        f"SELECT * FROM relay.events WHERE state = '{state}' {order} LIMIT 50"
        for state in events.STATES
        for order in (("ORDER BY id DESC",) if state in SETTLED else ("", "ORDER BY id DESC"))
    ),
    "SELECT * FROM relay.pending_events ORDER BY id DESC LIMIT 50",
    "SELECT * FROM relay.failed_events ORDER BY id DESC LIMIT 50",
    "SELECT * FROM relay.deliveries ORDER BY inbox_id DESC LIMIT 50",
    "SELECT * FROM relay.dead_letters ORDER BY id DESC LIMIT 50",
]


@pytest.mark.parametrize("sql", NEWEST)
async def test_the_newest_are_read_and_not_sorted_out_of_all(
    pg: asyncpg.Connection, full: set[str], sql: str
) -> None:
    plan = await explain(pg, sql)
    assert sorted_out(plan) & full == set()
    # The plan may say much and read little: it really does.
    read = sum(
        node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0)
        for node in await analyzed(pg, sql)
        if node.get("Relation Name", "").startswith("inbox_")
    )
    assert read < 3000


@pytest.mark.parametrize("more", ["", "AND event_type = 'invoice.paid'"])
async def test_what_came_lately_is_read_from_its_partition(
    pg: asyncpg.Connection, full: set[str], more: str
) -> None:
    """Inside of a partition that is worth it there is an index of the time, of a few pages."""
    plan = await explain(
        pg,
        "SELECT * FROM relay.events WHERE received_at > now() - '1 hour'::interval"
        f" {more} ORDER BY id DESC LIMIT 50",
    )
    assert sorted_out(plan) & full <= {max(full)}
    ranges = await pg.fetch("SELECT FROM pg_class WHERE relname ~ 'inbox_p.*_received_at_idx'")
    assert len(ranges) >= len(full)


async def test_a_join_that_scans_would_be_seen(pg: asyncpg.Connection, full: set[str]) -> None:
    """So the tests above can fail."""
    plan = await explain(
        pg,
        "SELECT * FROM relay.inbox i JOIN relay.queue q ON q.inbox_id = i.id"
        " AND q.received_at = i.received_at",
    )
    assert scanned(plan) & full == full


@pytest.mark.parametrize(
    "condition", ["event_id = $1", "id = $1::bigint", "object_id = $1", "state = $1"]
)
@pytest.mark.parametrize("view", ["events", "pending_events", "failed_events"])
async def test_nor_does_a_plan_that_is_kept(
    pg: asyncpg.Connection, full: set[str], view: str, condition: str
) -> None:
    if condition == "state = $1" and view == "events":
        pytest.skip("such a plan is dearer than one with the state in it, and is not kept")
    sql = f"SELECT * FROM relay.{view} WHERE {condition}"
    assert scanned(await explain_generic(pg, sql, 1)) & full == set()


# The commands


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(event_id="evt_31007"),
        Filter(inbox_id=31007),
        Filter(object="cus_77"),
        Filter(object="cus_77", source="shop", type="customer.*"),
        *(Filter(state=state, source="shop") for state in events.STATES),
        Filter(error="too_large"),
        Filter(type="customer.*"),
        Filter(since=datetime(2020, 1, 1, tzinfo=UTC), source="shop"),
        Filter(),
    ],
    ids=str,
)
async def test_listings_do_not_scan(crowd: Database, full: set[str], wanted: Filter) -> None:
    statements = _recorded(crowd)
    async with crowd.begin() as connection:
        assert await events.list_events(connection, wanted, limit=20)
        if wanted.state in (None, "dead"):
            await deadletters.list_dead_letters(connection, wanted, limit=20)
            await deadletters.find_ids(connection, wanted)
        if wanted.event_id or wanted.inbox_id:
            assert await events.show_events(connection, wanted)
    async with crowd.driver() as pg:
        for sql, parameters in statements:
            plan = await explain(pg, sql, *parameters)
            assert sorted_out(plan) & full == set(), sql


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter(source="shop", type="customer.*"),
        Filter(object="cus_77"),
        Filter(until=datetime(2100, 1, 1, tzinfo=UTC)),
        Filter(state="delivered"),
        Filter(state="dead"),
    ],
    ids=str,
)
async def test_a_page_in_the_middle_reads_a_page(
    crowd: Database, full: set[str], wanted: Filter
) -> None:
    """And not what lies before it, which would be half of all events."""
    async with crowd.begin() as connection:
        middle = await events.list_events(connection, Filter(event_id=f"evt_{ROWS // 2}"))
        statements = _recorded(crowd)
        found = await listing.page(connection, wanted, limit=20, before_id=middle[0]["id"])
        assert found.rows
    async with crowd.driver() as pg:
        for sql, parameters in statements:
            plan = await analyzed(pg, sql, *parameters)
            assert sorted_out(plan) & full == set(), sql
            assert all(_events_of(node) < 1000 for node in plan), sql


async def test_what_sources_received_lately_is_told_by_a_few(
    crowd: Database, full: set[str]
) -> None:
    statements = _recorded(crowd)
    async with crowd.begin() as connection:
        (seen,) = await traffic.seen(connection)
    # The newest 2,000, and 200 out of each stretch before.
    assert seen.events == 2000 + 5 * 200
    async with crowd.driver() as pg:
        ((sql, parameters),) = statements
        plan = await analyzed(pg, sql, *parameters)
        assert sorted_out(plan) & full == set()
        assert sum(_events_of(node) for node in plan) < 4000


def _events_of(node: dict[str, Any]) -> float:
    """The rows that it really went through, of a table that has one or more for every event."""
    if not node.get("Relation Name", "").startswith(("inbox_", "receipt_", "event_key")):
        return 0
    passed = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    return float(node["Actual Loops"] * passed)


async def test_actions_do_not_scan(crowd: Database, full: set[str]) -> None:
    async with crowd.begin() as connection:
        waiting = await events.find_ids(connection, Filter(state="retrying"))
        dead = await deadletters.find_ids(connection, Filter())
        statements = _recorded(crowd)
        await events.retry(connection, waiting[:5], OPERATOR)
        await events.skip(connection, waiting[:5], OPERATOR)
        assert len((await deadletters.replay(connection, dead[:5], OPERATOR)).queued) == 5
        await deadletters.discard(connection, dead[5:9], OPERATOR)
        await connection.rollback()
    async with crowd.driver() as pg:
        for sql, parameters in statements:
            plan = await explain(pg, sql, *parameters)
            assert sorted_out(plan) & full == set(), sql


def _recorded(database: Database) -> list[tuple[str, Sequence[Any]]]:
    """What SQLAlchemy sends from now on."""
    statements: list[tuple[str, Sequence[Any]]] = []

    def record(_c: object, _cursor: object, sql: str, parameters: Any, *_: object) -> None:
        statements.append((sql, parameters))

    event.listen(database.engine.sync_engine, "before_cursor_execute", record)
    return statements


# The hot statements


class Recorder:
    """Takes the place of a connection, and down what is said to it."""

    def __init__(self) -> None:
        self.sql = ""

    async def execute(self, sql: str, *_: Any) -> str:
        self.sql = sql
        return "UPDATE 1"

    async def fetch(self, sql: str, *_: Any) -> list[Any]:
        self.sql = sql
        return []

    async def fetchval(self, sql: str, *_: Any) -> int:
        self.sql = sql
        return 1


async def hot(pg: asyncpg.Connection) -> dict[str, str]:
    """The statements of receiver and forwarder, as they are sent."""
    waiting = await pg.fetchval("SELECT min(inbox_id) FROM relay.queue")
    row = await row_of(pg, waiting)
    said: dict[str, str] = {}
    recorder: Any = Recorder()
    await inbox.put(recorder, [new_event(1)])
    said["put"] = recorder.sql
    await queue.lock_lanes(recorder, (0, 0), 1)
    said["lock_lanes"] = recorder.sql
    await queue.read_lanes(recorder, [(1, 1)], 10)
    said["read_lanes"] = recorder.sql
    await queue.read_events(recorder, [row])
    said["read_events"] = recorder.sql
    await receipts.settle(recorder, [receipts.Settled(row, (), "unselected")], None)
    said["settle"] = recorder.sql
    await queue.park(recorder, [Parking(row, 1.0, "code", "error", 1)])
    said["park"] = recorder.sql
    await receipts.bury(recorder, [Death(row, "evt_1", None, "code", "error", 1, None)])
    said["bury"] = recorder.sql
    await receipts.read_dead_letters(recorder, [1])
    said["read_dead_letters"] = recorder.sql
    # A snapshot's row looks for live events of its object.
    asked = StoredEvent(
        *(1, "snap_a_cus_1", "customer.snapshot", "customer", "cus_1", None, True, None, 1),
        *("snapshot", b"{}"),
    )
    await queue.find_superseded(recorder, [(1, asked)])
    said["superseded"] = recorder.sql
    # And the snapshotter.
    await inbox.find_namesakes(recorder, [new_event(1)])
    said["namesakes"] = recorder.sql
    await ranges.has_claimable_work(recorder, 5000)
    said["claimable"] = recorder.sql
    return said


HOT = (
    *("put", "lock_lanes", "read_lanes", "read_events", "settle", "park", "bury"),
    *("read_dead_letters", "superseded", "namesakes", "claimable"),
)
LARGE = ("inbox_", "queue", "event_key", "receipt_", "dead_letter")


def _large(plan: Sequence[dict[str, Any]]) -> set[str]:
    return {name for name in scanned(plan) if name.startswith(LARGE)}


def _parameters(sql: str) -> int:
    return max(number for number in range(40) if f"${number}" in sql)


@pytest.mark.parametrize("name", HOT)
async def test_hot_statements_never_scan_a_large_table(pg: asyncpg.Connection, name: str) -> None:
    sql = (await hot(pg))[name]
    await pg.execute(queue.BEGIN.format(idle_ms=0))
    plan = await explain_generic(pg, sql, _parameters(sql))
    await pg.execute("ROLLBACK")
    assert _large(plan) == set()


@pytest.mark.parametrize("name", HOT)
async def test_nor_by_a_plan_that_was_made_when_all_was_empty(
    database: Database, source_id: int, crowd: Database, name: str
) -> None:
    """It is kept for minutes, in which the queue may grow by a million."""
    async with crowd.driver() as pg:
        sql = (await hot(pg))[name]
    async with database.driver() as pg:
        await pg.execute(queue.BEGIN.format(idle_ms=0))
        plan = await explain_generic(pg, sql, _parameters(sql))
        await pg.execute("ROLLBACK")
    assert _large(plan) == set()


async def test_reading_a_claimed_row_prunes_the_partitions(pg: asyncpg.Connection) -> None:
    row = await row_of(pg, await pg.fetchval("SELECT min(inbox_id) FROM relay.queue"))
    recorder: Any = Recorder()
    await queue.read_events(recorder, [row])
    plan = await analyzed(pg, recorder.sql, [row.inbox_id], [row.received_at], [None])
    touched = [
        node["Relation Name"]
        for node in plan
        if node.get("Relation Name", "").startswith("inbox_") and node["Actual Loops"]
    ]
    assert len(touched) == 1


async def test_a_claim_is_never_compiled(pg: asyncpg.Connection) -> None:
    """JIT takes seconds for what takes milliseconds. The wheel's PostgreSQL has none, Debian's has.

    What makes it tempting is a plan that scans in spite of `enable_seqscan`: before 18 its cost
    is above every threshold.
    """
    await pg.execute(queue.BEGIN.format(idle_ms=0))
    await pg.execute("SET LOCAL jit_above_cost = 0")
    plan = await pg.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {queue._LOCK_LANES}", 0, 0, 16)
    assert "JIT" not in plan[0]
    assert await pg.fetchval("SHOW jit") == "off"
    await pg.execute("ROLLBACK")
