"""Group commit on a real PostgreSQL: whose row is stored, and who is told so when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from relay.receiver.commit import (
    CannotStoreError,
    Committing,
    GroupCommit,
    UnstorableRowError,
)
from relay.receiver.counters import Counters
from relay.store.engine import Database
from relay.store.inbox import NewEvent

PATIENCE = 20.0


def row(event_id: str, body: bytes = b"{}", **changes: Any) -> NewEvent:
    fields: dict[str, Any] = {
        "source_id": 1,
        "event_id": event_id,
        "event_type": "customer.created",
        "object_type": "customer",
        "object_id": "cus_1",
        "account": None,
        "livemode": False,
        "api_version": None,
        "event_created": 1_700_000_000,
        "origin": "webhook",
        "signature_header": None,
        "body": body,
        "body_sha256": sha256(body).digest(),
        "lane": 0,
        "key_hash": 0,
    }
    return NewEvent(**(fields | changes))


@asynccontextmanager
async def committing(database: Database, **settings: Any) -> AsyncIterator[GroupCommit]:
    commit = GroupCommit(database, Counters(), Committing(**settings))
    commit.start()
    yield commit
    await commit.stop(PATIENCE)


async def put_as_one_batch(
    database: Database, rows: list[NewEvent], **settings: Any
) -> tuple[list[Any], Counters]:
    """All rows are queued before the first connection looks."""
    counters = Counters()
    commit = GroupCommit(database, counters, Committing(connections=1, **settings))
    waiting = [asyncio.ensure_future(commit.put(each)) for each in rows]
    await asyncio.sleep(0)
    commit.start()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    await commit.stop(PATIENCE)
    return results, counters


@pytest_asyncio.fixture
async def pg(direct_url: str) -> AsyncIterator[asyncpg.Connection]:
    """The test's own connection."""
    connection = await asyncpg.connect(direct_url)
    yield connection
    await connection.close()


async def stored_ids(pg: asyncpg.Connection) -> set[str]:
    return {each["event_id"] for each in await pg.fetch("SELECT event_id FROM relay.inbox")}


async def until(condition: Callable[[], Any]) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, "it did not come to that"
        await asyncio.sleep(0.01)


async def on_event_key(pg: asyncpg.Connection, body: str, *, at_commit: bool = False) -> None:
    """Runs PL/pgSQL for every stored row: at once, or inside the COMMIT."""
    await pg.execute(
        f"CREATE FUNCTION relay.act() RETURNS trigger LANGUAGE plpgsql AS $$"
        f" BEGIN {body}; RETURN NULL; END $$"
    )
    kind = "CONSTRAINT TRIGGER" if at_commit else "TRIGGER"
    deferred = "DEFERRABLE INITIALLY DEFERRED" if at_commit else ""
    await pg.execute(
        f"CREATE {kind} act AFTER INSERT ON relay.event_key {deferred}"
        " FOR EACH ROW EXECUTE FUNCTION relay.act()"
    )


class BlockedCommits:
    """Every COMMIT that stores something waits until `release`."""

    def __init__(self, pg: asyncpg.Connection) -> None:
        self._pg = pg

    @classmethod
    async def on(cls, pg: asyncpg.Connection) -> BlockedCommits:
        await on_event_key(pg, "PERFORM pg_advisory_xact_lock_shared(7)", at_commit=True)
        await pg.execute("SELECT pg_advisory_lock(7)")
        return cls(pg)

    async def wait_for(self, backends: int = 1) -> list[int]:
        """Until so many backends hang in their COMMIT; their process ids."""
        pids: list[int] = []

        async def enough() -> bool:
            rows = await self._pg.fetch(
                "SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory'"
                " AND datname = current_database()"
            )
            pids[:] = [each["pid"] for each in rows]
            return len(pids) >= backends

        await until(enough)
        return pids

    async def release(self) -> None:
        await self._pg.execute("SELECT pg_advisory_unlock_all()")


async def test_who_is_answered_is_stored(database: Database, direct_url: str) -> None:
    async with committing(database) as commit:

        async def put_and_look(number: int) -> bool:
            assert await commit.put(row(f"evt_{number}"))
            return f"evt_{number}" in await stored_ids(looking[number % 8])

        looking = [await asyncpg.connect(direct_url) for _ in range(8)]
        locks = [asyncio.Lock() for _ in looking]

        async def one(number: int) -> bool:
            async with locks[number % 8]:
                return await put_and_look(number)

        assert all(await asyncio.gather(*(one(number) for number in range(200))))
        for connection in looking:
            await connection.close()


async def test_duplicates_in_one_batch_and_in_later_ones(
    database: Database, pg: asyncpg.Connection
) -> None:
    results, _ = await put_as_one_batch(database, [row("a"), row("b"), row("a"), row("a")])
    assert results == [True, True, False, False]
    results, _ = await put_as_one_batch(database, [row("b"), row("c")])
    assert results == [False, True]


async def test_a_batch_is_bounded_by_rows_and_by_bytes(
    database: Database, pg: asyncpg.Connection
) -> None:
    results, counters = await put_as_one_batch(database, [row(f"n{n}") for n in range(1200)])
    assert results == [True] * 1200
    assert (counters.commit_rows.count, counters.commit_rows.sum) == (3, 1200)
    results, counters = await put_as_one_batch(
        database, [row(f"b{n}", bytes(2000)) for n in range(3)], max_bytes=3000
    )
    assert (results, counters.commit_rows.count) == ([True] * 3, 3)
    results, counters = await put_as_one_batch(database, [row("l", bytes(5000))], max_bytes=3000)
    assert (results, counters.commit_rows.count) == ([True], 1)


BAD = {
    "PostgreSQL refuses the text": {"event_type": "nul \0"},
    "a constraint refuses it": {"body_sha256": b"short"},
    "the index entry is too long": {"event_id": "".join(map(chr, range(300, 60_000)))},
    "asyncpg cannot encode it": {"account": "\ud800"},
    "no time that PostgreSQL knows": {"event_created": 10**13},
    "another type altogether": {"lane": "one"},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
async def test_a_bad_row_does_not_fail_its_neighbours(
    database: Database, pg: asyncpg.Connection, changes: dict[str, Any]
) -> None:
    bad = row(**({"event_id": "bad"} | changes))
    with capture_logs() as logs:
        results, _ = await put_as_one_batch(database, [row("a"), bad, row("b")])
    assert (results[0], results[2]) == (True, True)
    assert isinstance(results[1], UnstorableRowError)
    assert await stored_ids(pg) == {"a", "b"}
    [refused] = [line for line in logs if line["event"] == "receiver.row_refused"]
    assert refused["log_level"] == "error"
    assert set(refused) == {"event", "log_level", "error"}


@pytest.mark.parametrize("sqlstate", ["40P01", "40001"])
async def test_deadlocks_and_the_like_repeat_the_batch(
    database: Database, pg: asyncpg.Connection, sqlstate: str
) -> None:
    await pg.execute("CREATE SEQUENCE relay.tries")
    await on_event_key(
        pg,
        "IF nextval('relay.tries') <= 3 THEN"
        f" RAISE EXCEPTION 'again' USING ERRCODE = '{sqlstate}'; END IF",
    )
    results, counters = await put_as_one_batch(database, [row("a"), row("b")])
    assert results == [True, True]
    assert counters.commit_rows.count == 1
    assert (counters.batches_retried, counters.batches_failed) == (3, 0)


async def test_a_deadlock_without_end_is_given_up(
    database: Database, pg: asyncpg.Connection
) -> None:
    await on_event_key(pg, "RAISE EXCEPTION 'again' USING ERRCODE = '40P01'")
    results, counters = await put_as_one_batch(database, [row("a"), row("b")])
    assert [type(each) for each in results] == [CannotStoreError] * 2
    assert counters.batches_failed == 1


async def test_a_real_deadlock_with_others_ends_well(
    database: Database, pg: asyncpg.Connection
) -> None:
    """Somebody else inserts the same keys in another order, and holds them."""
    await pg.execute("SET deadlock_timeout = '60s'")
    key = "INSERT INTO relay.event_key VALUES ($1, 1, nextval('relay.arrival'), now())"
    async with committing(database, connections=1) as commit:
        assert await commit.put(row("first"))
        transaction = pg.transaction()
        await transaction.start()
        await pg.execute(key, "z")
        waiting = [asyncio.ensure_future(commit.put(row(each))) for each in ("a", "z")]

        async def is_stuck() -> bool:
            async with database.driver() as other:
                return bool(
                    await other.fetchval(
                        "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype <> 'advisory'"
                    )
                )

        await until(is_stuck)
        blocked = asyncio.ensure_future(pg.execute(key, "a"))
        await blocked
        await transaction.rollback()
        assert await asyncio.gather(*waiting) == [True, True]
        assert commit._counters.batches_retried == 1


@pytest.mark.parametrize(
    "sqlstate", ["53100", "53300", "57P01", "58030", "25006", "XX000", "42P01"]
)
async def test_a_database_in_trouble_fails_the_batch_and_recovers(
    database: Database, pg: asyncpg.Connection, sqlstate: str
) -> None:
    await on_event_key(pg, f"RAISE EXCEPTION 'trouble' USING ERRCODE = '{sqlstate}'")
    results, counters = await put_as_one_batch(database, [row("a"), row("b")])
    assert [type(each) for each in results] == [CannotStoreError] * 2
    assert counters.batches_failed == 1
    await pg.execute("DROP TRIGGER act ON relay.event_key")
    results, _ = await put_as_one_batch(database, [row("a"), row("b")])
    assert results == [True, True]


async def test_a_failover_drops_the_pooled_connections(
    database: Database, pg: asyncpg.Connection
) -> None:
    async with database.driver() as one, database.driver() as two:
        old = {one.get_server_pid(), two.get_server_pid()}
    await on_event_key(pg, "RAISE EXCEPTION 'standby' USING ERRCODE = '25006'")
    await put_as_one_batch(database, [row("a")])
    async with database.driver() as one, database.driver() as two:
        assert not old & {one.get_server_pid(), two.get_server_pid()}


async def test_durability_is_stated_whatever_the_defaults_are(
    database_url: str, pg: asyncpg.Connection
) -> None:
    name = await pg.fetchval("SELECT current_database()")
    for setting in (
        "synchronous_commit = off",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
    ):
        await pg.execute(f'ALTER DATABASE "{name}" SET {setting}')
    await pg.execute("CREATE TABLE relay.seen (setting text)")
    await on_event_key(
        pg,
        "INSERT INTO relay.seen VALUES (current_setting('synchronous_commit')),"
        " (current_setting('transaction_isolation'))",
    )
    database = Database(database_url)
    results, _ = await put_as_one_batch(database, [row("a")])
    assert results == [True]
    seen = [each["setting"] for each in await pg.fetch("SELECT * FROM relay.seen")]
    assert seen == ["on", "read committed"]
    await database.close()


async def test_a_commit_that_takes_too_long_is_cut_and_not_cancelled(
    database: Database, pg: asyncpg.Connection
) -> None:
    blocked = await BlockedCommits.on(pg)
    async with committing(database, transaction_seconds=0.2) as commit:
        with pytest.raises(CannotStoreError):
            await commit.put(row("a"))
        assert len(await blocked.wait_for()) == 1  # still at it: a cancel would have ended it
        assert await stored_ids(pg) == set()
        await blocked.release()

        async def is_stored() -> bool:
            return await stored_ids(pg) == {"a"}

        await until(is_stored)
        assert await commit.put(row("a")) is False


async def test_cancelling_a_request_does_not_cancel_its_commit(
    database: Database, pg: asyncpg.Connection
) -> None:
    blocked = await BlockedCommits.on(pg)
    async with committing(database, connections=1) as commit:
        request = asyncio.ensure_future(commit.put(row("a")))
        await blocked.wait_for()
        neighbour = asyncio.ensure_future(commit.put(row("b")))
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await blocked.release()
        assert await neighbour is True
    assert await stored_ids(pg) == {"a", "b"}


async def test_a_backend_that_ends_in_its_commit_fails_its_batch_only(
    database: Database, pg: asyncpg.Connection
) -> None:
    blocked = await BlockedCommits.on(pg)
    async with committing(database, connections=1) as commit:
        first = asyncio.ensure_future(commit.put(row("a")))
        [pid] = await blocked.wait_for()
        second = asyncio.ensure_future(commit.put(row("b")))
        await pg.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(CannotStoreError):
            await first
        await blocked.release()
        assert await second is True
        assert await commit.put(row("a")) is True


async def test_a_warning_in_the_commit_is_no_success(
    database: Database, pg: asyncpg.Connection
) -> None:
    """What PostgreSQL says when somebody cancels the wait for a standby: committed, but."""
    await on_event_key(pg, "RAISE WARNING 'might not have been replicated'", at_commit=True)
    results, _ = await put_as_one_batch(database, [row("a")])
    assert [type(each) for each in results] == [CannotStoreError]


async def test_a_duplicate_is_answered_after_a_commit_that_writes(
    database: Database, pg: asyncpg.Connection
) -> None:
    """It waits for the disk and the standbys like the first one: see durability.write_mark."""
    await put_as_one_batch(database, [row("a")])
    before = await pg.fetchval("SELECT pg_current_xact_id()::text::bigint")
    results, _ = await put_as_one_batch(database, [row("a")])
    assert results == [False]
    assert await pg.fetchval("SELECT pg_current_xact_id()::text::bigint") > before + 1


async def test_connections_that_died_while_idle_fail_nobody(
    database: Database, pg: asyncpg.Connection
) -> None:
    async with committing(database) as commit:
        await asyncio.gather(*(commit.put(row(f"a{n}")) for n in range(5)))
        await pg.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

        async def all_gone() -> bool:
            return not await pg.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND backend_type = 'client backend'"
            )

        await until(all_gone)
        assert await asyncio.gather(*(commit.put(row(f"b{n}")) for n in range(5))) == [True] * 5


async def test_a_migration_in_between_fails_nobody(
    database: Database, pg: asyncpg.Connection
) -> None:
    async with committing(database, connections=1) as commit:
        for number in range(3):
            assert await commit.put(row(f"evt_{number}"))
            await pg.execute(f"ALTER TABLE relay.event_key ADD COLUMN extra{number} int")
            await pg.execute("DISCARD PLANS")
        assert await commit.put(row("last"))


async def test_stopping_stores_what_has_queued(database: Database, pg: asyncpg.Connection) -> None:
    commit = GroupCommit(database, Counters())
    waiting = [asyncio.ensure_future(commit.put(row(f"evt_{n}"))) for n in range(50)]
    await asyncio.sleep(0)
    commit.start()
    await commit.stop(PATIENCE)
    assert await asyncio.gather(*waiting) == [True] * 50
    with pytest.raises(CannotStoreError):
        await commit.put(row("late"))


async def test_stopping_cuts_what_does_not_end(database: Database, pg: asyncpg.Connection) -> None:
    blocked = await BlockedCommits.on(pg)
    commit = GroupCommit(database, Counters(), Committing(connections=1))
    commit.start()
    first = asyncio.ensure_future(commit.put(row("a")))
    await blocked.wait_for()
    second = asyncio.ensure_future(commit.put(row("b")))
    await asyncio.sleep(0)
    await commit.stop(0.1)
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(each) for each in results] == [CannotStoreError] * 2
    await blocked.release()


async def test_rows_that_waited_too_long_are_refused(
    database: Database, pg: asyncpg.Connection
) -> None:
    results, counters = await put_as_one_batch(
        database, [row("a"), row("b")], patience_seconds=-1.0
    )
    assert [type(each) for each in results] == [CannotStoreError] * 2
    assert counters.commit_rows.count == 0


async def test_nothing_new_is_begun_with_while_rows_wait_too_long(
    database: Database, pg: asyncpg.Connection
) -> None:
    async with committing(database, connections=1, patience_seconds=1.0) as commit:
        assert await commit.put(row("connected"))
        blocked = await BlockedCommits.on(pg)
        first = asyncio.ensure_future(commit.put(row("a")))
        await blocked.wait_for()
        second = asyncio.ensure_future(commit.put(row("b")))
        now = asyncio.get_running_loop().time
        queued = now()

        async def is_behind() -> bool:
            return commit.is_behind(now())

        await until(is_behind)
        with pytest.raises(CannotStoreError):
            await commit.put(row("c"))

        async def is_out_of_patience() -> bool:
            return now() > queued + 1.0

        await until(is_out_of_patience)
        await blocked.release()
        assert await first is True
        with pytest.raises(CannotStoreError):
            await second
    assert await stored_ids(pg) == {"connected", "a"}


async def test_a_connection_that_ends_before_the_first_statement_fails_nobody(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has said so, and asyncpg, which waits for the close, takes no statement more."""
    execute = asyncpg.Connection.execute
    ended = []

    async def end_once(self: asyncpg.Connection, query: str, *args: object) -> str:
        if "SET LOCAL synchronous_commit" in query and not ended:
            ended.append(self)
            raise asyncpg.InternalClientError("cannot switch to state 15")
        return await execute(self, query, *args)

    monkeypatch.setattr(asyncpg.Connection, "execute", end_once)
    results, counters = await put_as_one_batch(database, [row("a"), row("b")])
    assert results == [True, True]
    assert counters.batches_failed == 0
    assert ended
