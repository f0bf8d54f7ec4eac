"""Two hosts, one of which dies, freezes, or is replaced: nothing that was answered 2xx is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import text

from relay.dev import samples
from relay.dev.postgres import EmbeddedPostgres
from relay.receiver.commit import Committing
from relay.store.engine import Database
from relay.store.failures import DATABASE_FAILURES, is_outage
from relay.store.schema import migrate
from relay.store.sealing import new_key
from relay.store.trouble import explain
from tests.acceptance import evidence
from tests.acceptance.fleet import Serving as Process
from tests.acceptance.fleet import command, create_source, environment, get
from tests.acceptance.sender import Event, Sender, Webhook
from tests.receiver.proxy import Proxy
from tests.receiver.serving import Serving, event
from tests.support.processes import eventually
from tests.support.replicas import Frozen, Replicas, execute, follow

SECRET = "whsec_" + "f" * 32


@pytest_asyncio.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[Replicas]:
    made = Replicas(tmp_path)
    try:
        await made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    with Proxy(database_url) as proxy:
        yield proxy


def _events(count: int, seed: int = 0) -> list[Event]:
    return [Event(each.event_id, b"", each.body) for each in samples.events(count, seed=seed)]


async def reasons(process: Process) -> dict[str, str]:
    checks = (await get(process.admin_port, "/readyz")).json["checks"]
    return {name: check["reason"] for name, check in checks.items() if not check["ok"]}


@pytest.mark.slow
async def test_a_standby_takes_over(
    replicas: Replicas, kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    """By itself: no process is restarted, and every event comes through once it is answered."""
    settings = environment(
        RELAY_DATABASE_URL=replicas.url,
        RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka,
        RELAY_ENCRYPTION_KEYS=new_key(),
    )
    status, _, errors = await command("migrate", environment=settings)
    assert status == 0, errors
    flags = ("--signing-secret", SECRET, "--topic-prefix", topic_prefix)
    source = await create_source("acme", *flags, environment=settings)
    webhook = Webhook(f"/webhooks/{source['id']}?api_key={source['api_key']}", SECRET)
    process = await Process("receiver,forwarder", settings, tmp_path / "log").ready()
    third = EmbeddedPostgres(tmp_path / "three")
    try:
        sender = Sender(webhook, lambda: [process.port], random.Random(1))
        sending = asyncio.create_task(sender.run(_events(1500), connections=8))
        await eventually(lambda: len(sender.posted) > 200)
        replicas.primary.kill()
        await eventually(lambda: sender.answers["status 503"] > 0)
        await eventually(lambda: _has(process, "database"))
        await replicas.fail_over()
        await sending
        assert sender.answers["status 503"] > 0

        # It receives, but not as safely as it should.
        await eventually(lambda: _has(process, "durability"))
        assert "synchronous_standby_names is empty" in (await reasons(process))["durability"]
        await follow(replicas.standby, third)
        await eventually(lambda: _is_ready(process))

        await eventually(lambda: _is_empty(replicas.standby), deadline=60)
        pg = await asyncpg.connect(replicas.standby.dsn)
        stored = dict(await _pairs(pg, "SELECT event_id, body_sha256 FROM relay.events"))
        assert {each.event_id for each in sender.posted} <= stored.keys()
        assert all(stored[each.event_id] == each.sha256 for each in sender.posted)
        states = await _pairs(pg, "SELECT state, count(*) FROM relay.events GROUP BY 1")
        assert dict(states).keys() == {"delivered"}
        records = await evidence.read_records(kafka, topic_prefix)
        places = {record.place for record in records}
        assert {each.place for each in await evidence.read_receipts(pg)} <= places
        await pg.close()
        assert await process.stop() == 0
    finally:
        await process.kill()
        third.stop()


async def _has(process: Process, check: str) -> bool:
    return check in await reasons(process)


async def _is_ready(process: Process) -> bool:
    return not await reasons(process)


async def _is_empty(server: EmbeddedPostgres) -> bool:
    return await execute(server, "SELECT count(*) FROM relay.queue") == 0


async def _pairs(pg: asyncpg.Connection, query: str) -> list[tuple[object, object]]:
    return [(row[0], row[1]) for row in await pg.fetch(query)]


@pytest.mark.slow
async def test_a_commit_that_waits_for_the_standby_is_not_acknowledged(replicas: Replicas) -> None:
    """It may be there afterwards or not, but nobody was told that it is."""
    await migrate(replicas.url)
    committing = Committing(transaction_seconds=1.0, patience_seconds=2.0)
    serving = await asyncio.to_thread(Serving, replicas.url, committing=committing)
    try:
        source = await asyncio.to_thread(serving.add_source)
        first = await asyncio.to_thread(serving.post, source, event("evt_before"))
        assert first.status == 200
        with Frozen(replicas.standby):
            for number in range(8):
                answer = await asyncio.to_thread(serving.post, source, event(f"evt_{number}"))
                assert answer.status == 503
                assert int(answer.headers["retry-after"]) > 0
            waiting = await execute(
                replicas.primary,
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
            )
            assert isinstance(waiting, int)
            assert 1 <= waiting <= committing.connections, "the others were not even begun"
            visible = await execute(replicas.primary, "SELECT count(*) FROM relay.inbox")
            assert visible == 1
        for number in range(8):
            body = event(f"evt_{number}")
            await eventually(lambda body=body: _is_taken(serving, source, body))
        for server in (replicas.primary, replicas.standby):
            await eventually(lambda server=server: _holds(server, 9))
    finally:
        await asyncio.to_thread(serving.stop)


async def _is_taken(serving: Serving, source: object, body: bytes) -> bool:
    return (await asyncio.to_thread(serving.post, source, body)).status == 200  # type: ignore[arg-type]


async def _holds(server: EmbeddedPostgres, events: int) -> bool:
    return await execute(server, "SELECT count(DISTINCT event_id) FROM relay.inbox") == events


async def test_the_host_that_works_is_asked_first(database_url: str, proxy: Proxy) -> None:
    """A black hole costs its time once, not with every connection."""
    good = database_url.rpartition("/")[0].rpartition("@")[2]
    hole = proxy.url.rpartition("/")[0].rpartition("@")[2]
    database = Database(database_url.replace(good, f"{hole},{good}") + "?connect_timeout=1")
    proxy.freeze()
    async with database.driver() as pg:
        assert await pg.fetchval("SELECT 1") == 1
    assert database._first == 1
    proxy.cut()
    await database.discard_pool()
    async with database.begin():
        pass
    await database.close()


async def test_no_host_that_takes_writes(replicas: Replicas) -> None:
    replicas.primary.kill()
    database = Database(replicas.url)
    with pytest.raises(OSError, match="Connect call failed") as away:
        async with database.driver():
            pass
    assert is_outage(away.value)
    await database.close()
    standby = f"{replicas.standby.dsn}?target_session_attrs=primary"
    database = Database(standby)
    with pytest.raises(DATABASE_FAILURES) as only:
        async with database.driver():
            pass
    assert is_outage(only.value)
    assert "takes writes" in str(explain(only.value))
    await database.close()


async def test_a_host_that_became_read_only_is_left(database_url: str) -> None:
    """Every pooled connection to it, not only the one that found out."""
    database = Database(database_url, pool_size=3)
    for raw in (True, False):
        pids = set()
        async with database.driver() as one, database.driver() as two:
            pids = {one.get_server_pid(), two.get_server_pid()}
        with pytest.raises(DATABASE_FAILURES):
            await _write_where_nobody_may(database, raw=raw)
        async with database.driver() as one, database.driver() as two:
            assert pids.isdisjoint({one.get_server_pid(), two.get_server_pid()})
    await database.close()


async def _write_where_nobody_may(database: Database, *, raw: bool) -> None:
    statements = ("SET TRANSACTION READ ONLY", "CREATE TABLE nowhere ()")
    if raw:
        async with database.driver() as pg, pg.transaction():
            for statement in statements:
                await pg.execute(statement)
    else:
        async with database.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement))


@pytest.mark.parametrize("raw", [True, False])
async def test_a_server_that_hangs_is_left_after_a_while(
    database_url: str, proxy: Proxy, raw: bool
) -> None:
    """Its kernel may go on answering for it: the time-outs of TCP do not help then."""
    database = Database(proxy.url, patience_seconds=0.5)

    async def ask() -> None:
        if raw:
            async with database.driver() as pg:
                await pg.fetchval("SELECT 1")
        else:
            async with database.begin() as connection:
                await connection.exec_driver_sql("SELECT 1")

    await ask()
    proxy.freeze()
    for _ in range(3):  # a pooled connection, and then new ones
        with pytest.raises(DATABASE_FAILURES) as caught:
            await ask()
        assert is_outage(caught.value)
    proxy.mend()
    await ask()
    await database.close()


@pytest.mark.slow
async def test_no_service_hangs_for_ever_on_a_dead_server(
    database_url: str, proxy: Proxy, kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    settings = environment(
        RELAY_DATABASE_URL=proxy.url,
        RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka,
        RELAY_ENCRYPTION_KEYS=new_key(),
        RELAY_DATABASE_TIMEOUT_SECONDS="2",
        RELAY_DELIVERY_TIMEOUT_SECONDS="1",
        RELAY_BATCH_TIMEOUT_SECONDS="1",
        RELAY_FENCE_MARGIN_SECONDS="1",
        RELAY_STRIPE_TIMEOUT_SECONDS="1",
        RELAY_FROZEN_AFTER_SECONDS="3",
    )
    flags = ("--signing-secret", SECRET, "--topic-prefix", topic_prefix)
    source = await create_source("acme", *flags, environment=settings)
    webhook = Webhook(f"/webhooks/{source['id']}?api_key={source['api_key']}", SECRET)
    process = await Process("receiver,forwarder", settings, tmp_path / "log").ready()
    try:
        sender = Sender(webhook, lambda: [process.port], random.Random(2))
        await sender.run(_events(20), connections=2)
        proxy.freeze()
        await eventually(lambda: _has(process, "database"), deadline=60)
        # Each service tells that it was left alone, and lives.
        await eventually(
            lambda: (
                {"forwarder-0", "recovery"}
                <= {line["service"] for line in process.lines("app.database_away")}
            ),
            deadline=60,
        )
        proxy.mend()
        await eventually(lambda: _is_ready(process), deadline=60)
        await sender.run(_events(20, seed=3), connections=2)
        pg = await asyncpg.connect(database_url)

        async def is_done() -> bool:
            return not await pg.fetchval("SELECT count(*) FROM relay.queue")

        await eventually(is_done, deadline=60)
        await pg.close()
        assert await process.stop() == 0
    finally:
        await process.kill()
