"""Sealing the inbox: every committed row in exactly one seal, in a chain that holds."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest
import structlog

from relay.core import seal as core
from relay.janitor import Janitor
from relay.store import partitions, schema, seals, xact_index
from relay.store.engine import Database
from tests.store.days import DAY, past, store_at
from tests.store.rows import new_event, put, store
from tests.support.logins import as_login

_ELSEWHERE = "UPDATE relay.seal SET cluster = cluster + 1"


async def sealed_ids(pg: asyncpg.Connection) -> list[int]:
    """Of every seal in turn: a row that was sealed twice is in the list twice."""
    rows = await pg.fetch("SELECT unnest(ids) AS id FROM relay.seal ORDER BY number")
    return [row["id"] for row in rows]


async def inbox_ids(pg: asyncpg.Connection) -> list[int]:
    return [row["id"] for row in await pg.fetch("SELECT id FROM relay.inbox ORDER BY id")]


async def assert_all_sealed_once(pg: asyncpg.Connection) -> None:
    assert sorted(await sealed_ids(pg)) == await inbox_ids(pg)


async def pretend_a_restore(pg: asyncpg.Connection, statement: str) -> None:
    """Change what is never changed, as only a dump and a restore do."""
    async with pg.transaction():
        await pg.execute("SET LOCAL session_replication_role = replica")
        await pg.execute(statement)


async def test_the_chain_is_what_the_documentation_says(
    pg: asyncpg.Connection, source_id: int
) -> None:
    await store(pg, new_event(source_id), new_event(source_id))
    await seals.seal_round(pg)
    await store(pg, new_event(source_id))
    done = await seals.seal_round(pg)
    previous = core.GENESIS
    found = await pg.fetch("SELECT * FROM relay.seal ORDER BY number")
    assert [(row["number"], row["count"]) for row in found] == [(1, 2), (2, 1)]
    for row in found:
        stored = await pg.fetch(
            "SELECT id, event_id, received_at, body_sha256 FROM relay.inbox"
            " WHERE id = ANY ($1) ORDER BY id",
            row["ids"],
        )
        assert row["leaves"] == b"".join(core.leaf(*each) for each in stored)
        assert row["previous"] == previous
        previous = core.seal(previous, row["number"], row["day"], row["leaves"])
        assert row["sha256"] == previous
    assert done.head == seals.Head(2, previous)


async def test_nothing_new_adds_no_seal(pg: asyncpg.Connection, source_id: int) -> None:
    assert await seals.seal_round(pg) == seals.Sealed()
    await store(pg, new_event(source_id))
    first = await seals.seal_round(pg)
    assert await seals.seal_round(pg) == seals.Sealed(0, 0, first.head)


async def test_a_late_commit_and_a_gap_are_no_trouble(
    pg: asyncpg.Connection, other: asyncpg.Connection, source_id: int
) -> None:
    """The earlier id is committed after the later ones were sealed; another one never is."""
    late, lost = pg.transaction(), other.transaction()
    await late.start()
    assert await put(pg, new_event(source_id, "evt_late")) == [True]
    await lost.start()
    await put(other, new_event(source_id, "evt_lost"))
    await lost.rollback()
    await store(other, new_event(source_id, "evt_soon"))
    assert (await seals.seal_round(other)).rows == 0  # it began after the late one
    await late.commit()
    assert (await seals.seal_round(other)).rows == 2
    await assert_all_sealed_once(pg)
    assert len(await sealed_ids(pg)) == 2


async def test_while_a_transaction_is_open_what_came_before_it_is_sealed(
    pg: asyncpg.Connection, other: asyncpg.Connection, source_id: int
) -> None:
    before = await store(pg, new_event(source_id))
    late = pg.transaction()
    await late.start()
    await put(pg, new_event(source_id))
    await store(other, new_event(source_id))
    await seals.seal_round(other)
    assert await sealed_ids(other) == before
    await late.commit()
    await seals.seal_round(other)
    await assert_all_sealed_once(other)
    assert len(await sealed_ids(other)) == 3


async def test_a_backlog_is_caught_up_with_in_several_seals(
    pg: asyncpg.Connection, source_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "SEAL_ROWS", 10)
    monkeypatch.setattr(seals, "_STEP_ROWS", 20)
    for size in (1, 25, 3, 40, 1, 1):  # transactions larger than a seal, too
        await store(pg, *(new_event(source_id) for _ in range(size)))
    done = await seals.seal_round(pg, limit=3)
    assert done.seals >= 3
    assert done.rows < 40  # the largest transaction is one step, and nothing else goes with it
    while (await seals.seal_round(pg, limit=3)).rows:
        pass
    await assert_all_sealed_once(pg)
    assert await pg.fetchval("SELECT max(count) FROM relay.seal") == 10
    assert await pg.fetchval("SELECT count(*) FROM relay.seal WHERE count = 0") <= 1


async def test_a_seal_spans_no_two_days_and_no_two_partitions(
    pg: asyncpg.Connection, source_id: int
) -> None:
    """Rows of many days in one transaction."""
    old = await past(pg, 6)
    async with pg.transaction():
        for each in old:
            await store_at(pg, each.lower, source_id=source_id)
            await store_at(pg, each.lower + timedelta(hours=23), source_id=source_id)
    await seals.seal_round(pg)
    await assert_all_sealed_once(pg)
    spans = await pg.fetch(
        """
        SELECT count(DISTINCT i.tableoid) AS partitions, count(*) AS rows,
               bool_and(s.day = (i.received_at AT TIME ZONE 'UTC')::date) AS same_day
        FROM relay.seal s JOIN relay.inbox i ON i.id = ANY (s.ids) GROUP BY s.number
        """
    )
    assert [tuple(row) for row in spans] == [(1, 2, True)] * len(old)


# Another cluster


async def test_after_a_restore_elsewhere_it_goes_on(
    pg: asyncpg.Connection, other: asyncpg.Connection, source_id: int
) -> None:
    """Ids of transactions that begin anew: old rows seem to be of the future, new ones done."""
    await store(pg, *(new_event(source_id) for _ in range(5)))
    await seals.seal_round(pg)
    await store(pg, *(new_event(source_id) for _ in range(4)))  # not sealed when it was dumped
    await pretend_a_restore(
        pg,
        "UPDATE relay.inbox SET xact_id = xact_id + 4000000000;"
        "UPDATE relay.seal SET xact_until = xact_until + 4000000000, cluster = cluster + 1",
    )
    # Stored here before anybody sealed, one of them by a transaction that is still open then.
    await store(pg, new_event(source_id))
    late = pg.transaction()
    await late.start()
    await put(pg, new_event(source_id))
    assert (await seals.seal_round(other)).rows >= 5
    await late.commit()
    await store(other, new_event(source_id))
    await seals.seal_round(other)
    await assert_all_sealed_once(other)
    assert len(await sealed_ids(other)) == 12
    assert (await seals.seal_round(other)).rows == 0
    # All rows are gone through once, and not for every new one.
    walks = await pg.fetch("SELECT walk FROM relay.seal ORDER BY number DESC LIMIT 2")
    assert [row["walk"] for row in walks] == [False, True]


async def test_rows_of_another_cluster_that_seem_to_be_done(
    pg: asyncpg.Connection, source_id: int
) -> None:
    """Stored there while the ids had not caught up yet, and sealed only after they had."""
    await store(pg, new_event(source_id))
    await seals.seal_round(pg)
    (stored,) = await store(pg, new_event(source_id))
    await pretend_a_restore(pg, f"UPDATE relay.inbox SET xact_id = 5 WHERE id = {stored}")
    await pretend_a_restore(pg, _ELSEWHERE)
    assert (await seals.seal_round(pg)).rows == 1
    await assert_all_sealed_once(pg)


async def test_old_ids_of_transactions_come_again(pg: asyncpg.Connection, source_id: int) -> None:
    """A cluster whose ids are where those of the old one were: neither is taken for the other."""
    await store(pg, *(new_event(source_id) for _ in range(3)))
    await seals.seal_round(pg)
    await pretend_a_restore(pg, _ELSEWHERE)
    horizon = await pg.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    await pretend_a_restore(pg, f"UPDATE relay.inbox SET xact_id = {horizon + 3} WHERE id % 2 = 0")
    for _ in range(8):
        await store(pg, new_event(source_id))
        await seals.seal_round(pg)
    await assert_all_sealed_once(pg)
    assert len(await sealed_ids(pg)) == 11


async def test_a_restore_of_what_was_sealed_wholly_is_noted_once(
    pg: asyncpg.Connection, source_id: int
) -> None:
    await store(pg, new_event(source_id))
    await seals.seal_round(pg)
    await pretend_a_restore(pg, _ELSEWHERE)
    count = "SELECT count(*) FROM relay.seal"
    for _ in range(3):
        assert (await seals.seal_round(pg)).rows == 0
    assert await pg.fetchval(count) == 2
    await store(pg, new_event(source_id))
    assert (await seals.seal_round(pg)).rows == 1
    await assert_all_sealed_once(pg)


# By whom, and beside whom


async def test_two_at_once_leave_one_chain(
    database: Database, database_url: str, pg: asyncpg.Connection, source_id: int
) -> None:
    janitors = [Janitor(Database(database_url), retention_days=0) for _ in range(3)]
    for _ in range(6):
        await store(pg, new_event(source_id), new_event(source_id))
        await asyncio.gather(*(each.run_once() for each in janitors))
    await Janitor(database, retention_days=0).run_once()
    await assert_all_sealed_once(pg)
    for each in janitors:
        await each._database.close()


@pytest.mark.parametrize(
    ("login", "seals_made"), [("forwarder", 1), ("receiver", 0), ("admin", 0), ("snapshotter", 0)]
)
async def test_whoever_may_seals_and_others_leave_it_quietly(
    database: Database,
    database_url: str,
    pg: asyncpg.Connection,
    source_id: int,
    login: str,
    seals_made: int,
) -> None:
    await store(pg, new_event(source_id))
    role = Database(as_login(database_url, login))
    with structlog.testing.capture_logs() as logged:
        await Janitor(role, retention_days=0).run_once()
    await role.close()
    assert await pg.fetchval("SELECT count(*) FROM relay.seal") == seals_made
    told = [line for line in logged if line["event"] != "janitor.leaves_the_rest"]
    head = await seals.read_head(pg)
    expected = {"event": "janitor.sealed", "log_level": "info", "number": 1, "rows": 1}
    assert told == ([expected | {"head": head.sha256.hex()}] if head else [])


async def test_a_seal_is_never_changed(pg: asyncpg.Connection, source_id: int) -> None:
    await store(pg, new_event(source_id))
    await seals.seal_round(pg)
    for change in ("UPDATE relay.seal SET day = day", "TRUNCATE relay.seal"):
        with pytest.raises(asyncpg.RestrictViolationError, match=r"relay.seal refused"):
            await pg.execute(change)


# Retention


async def test_the_chain_goes_with_its_partitions_from_the_front(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    old = await past(pg, 12)
    for each in old:
        await store_at(pg, each.lower, source_id=source_id)
        await seals.seal_round(pg)
    # A late one in an old day, sealed behind the newest.
    await store_at(pg, old[0].lower + timedelta(hours=1), source_id=source_id)
    await seals.seal_round(pg)
    janitor = Janitor(database, retention_days=7)
    await janitor.run_once()
    kept = await partitions.list_partitions(pg)
    numbers = [row["number"] for row in await pg.fetch("SELECT number FROM relay.seal")]
    first = next(number for number, each in enumerate(old, 1) if each in kept)
    assert numbers == list(range(first, len(old) + 2))
    assert await janitor.run_once() == 0
    log = await pg.fetch("SELECT target FROM relay.operator_log WHERE action = 'partition.drop'")
    assert len(log) == first - 1
    assert log[0]["target"].split()[0] == old[0].lower.isoformat()


async def test_the_newest_seal_stays_when_all_is_gone(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    (oldest, *_) = await past(pg, 12)
    await store_at(pg, oldest.lower, source_id=source_id)
    await seals.seal_round(pg)
    await Janitor(database, retention_days=7).run_once()
    await store(pg, new_event(source_id))
    done = await seals.seal_round(pg)
    assert done.head is not None
    assert done.head.number == 2


async def test_all_rows_are_gone_through_when_none_is_on_its_way_out(
    pg: asyncpg.Connection, source_id: int
) -> None:
    """A drop that was begun may be taken back, when the retention was made longer meanwhile."""
    (old, *_) = await past(pg, 8)
    await store_at(pg, old.lower, source_id=source_id)
    await store(pg, new_event(source_id))
    mark = f"{partitions._DROP_MARK} {old.lower.isoformat()} {old.upper.isoformat()}"
    await pg.execute(f"COMMENT ON TABLE relay.inbox_{old.suffix} IS '{mark}'")
    await pg.execute(f"ALTER TABLE relay.inbox DETACH PARTITION relay.inbox_{old.suffix}")
    assert (await seals.seal_round(pg)).rows == 0
    await partitions.finish_drops(pg, retention_days=0)
    assert (await seals.seal_round(pg)).rows == 2
    await assert_all_sealed_once(pg)


# The index


async def test_partitions_from_before_get_the_index_and_then_seals(
    empty_database_url: str,
) -> None:
    await schema.migrate(empty_database_url, "0003")
    pg = await asyncpg.connect(empty_database_url)
    await past(pg, 3)
    source_id: int = await pg.fetchval(
        "INSERT INTO relay.source (public_id, name, resources, unselected, default_topic, metadata,"
        " fan_out, dlq, dlq_topic, topic_prefix, route_by, tombstones, tolerance, mode, insecure,"
        " signing_secrets) VALUES ('src_1', 'shop', '{}', 'SKIP', 'unknown', true, '{}', true,"
        " 'dead_letter', '', 'event_type', false, 300, 'any', true, '{}') RETURNING id"
    )
    await store(pg, new_event(source_id))
    database = Database(empty_database_url)
    await Janitor(database, retention_days=0).run_once()  # this build on the schema of before
    await schema.migrate(empty_database_url)
    assert not await xact_index.is_complete(pg)
    # As a build that was interrupted leaves it: there, and of no use.
    first = await pg.fetchval("SELECT tableoid::regclass::text FROM relay.inbox")
    name = f"{first.removeprefix('relay.')}_xact_id_idx"
    await pg.execute(f"CREATE INDEX {name} ON {first} USING brin (xact_id)")
    await pg.execute(
        f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'relay.{name}'::regclass"
    )
    await Janitor(database, retention_days=0).run_once()
    assert await xact_index.is_complete(pg)
    assert await pg.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'relay.inbox_xact_id_idx'::regclass"
    )
    await assert_all_sealed_once(pg)
    assert len(await sealed_ids(pg)) == 1
    await schema.migrate(empty_database_url, "0003")
    left = await pg.fetchval("SELECT count(*) FROM pg_class WHERE relname LIKE '%xact_id%'")
    assert left == 0
    await database.close()
    await pg.close()


async def test_new_partitions_have_the_index(pg: asyncpg.Connection) -> None:
    later = (await partitions.list_partitions(pg))[-1].upper
    await partitions.ensure_ahead(pg, retention_days=0, now=later + DAY)
    assert await xact_index.is_complete(pg)


async def test_rows_are_found_by_the_index(pg: asyncpg.Connection, source_id: int) -> None:
    """And not by reading the inbox, whatever the planner guesses of it."""
    async with pg.transaction():
        await pg.execute("SET LOCAL enable_seqscan = off")
        plan = await pg.fetch(
            "EXPLAIN "
            + seals._ROWS.replace("$1", "1000000").replace("$2", "1000500").replace("$3", "1000500")
        )
    text = "\n".join(row[0] for row in plan)
    assert "xact_id_idx" in text
    assert "Seq Scan" not in text
