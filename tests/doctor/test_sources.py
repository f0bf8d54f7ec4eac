"""Sources that something is wrong with, and the check that has to say so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from relay.doctor import Patient, examine
from relay.doctor.examination import CHECKS
from relay.settings import Settings
from relay.store import queue, sources, traffic, vitals
from relay.store.engine import Database
from relay.store.sealing import new_key
from tests.doctor.conftest import KEY, AddSource, Examine, one
from tests.store.rows import bury, new_event, row_of, store
from tests.support.many_events import fill
from tests.support.processes import eventually


async def test_no_source(check: Examine) -> None:
    assert "answered 401" in one(await check("sources.present"), "warning").reason


async def test_a_source_as_it_should_be(
    check: Examine, add_source: AddSource, pg: asyncpg.Connection
) -> None:
    await store(pg, new_event(await add_source()))
    for each in CHECKS:
        if each.name.startswith("sources."):
            one(await check(each.name), "ok")


async def test_a_source_that_verifies_nothing(check: Examine, add_source: AddSource) -> None:
    await add_source("open", secrets=())
    await add_source("shut")
    found = one(await check("sources.verification"), "warning")
    assert found.reason.endswith("can send any event: open")


async def test_a_secret_of_an_unknown_key(check: Examine, add_source: AddSource) -> None:
    await add_source("lost", key=new_key())
    await add_source("kept")
    found = one(await check("sources.secrets"), "failed")
    assert "opens the secrets of lost:" in found.reason


async def test_no_key_at_all(check: Examine, add_source: AddSource) -> None:
    await add_source()
    found = one(await check("sources.secrets", encryption_keys=()), "failed")
    assert "RELAY_ENCRYPTION_KEYS is not set" in found.reason


async def test_a_secret_of_an_older_key(check: Examine, add_source: AddSource) -> None:
    await add_source("shop")
    keys = (new_key(), KEY)
    found = one(await check("sources.secrets", encryption_keys=keys), "warning")
    assert found.fix is not None
    assert found.fix.startswith("relay encryption-key rotate")


async def test_sources_that_share_topics(check: Examine, add_source: AddSource) -> None:
    await add_source("one", resources=("customer", "charge"))
    await add_source("two", resources=("customer",), default_topic="rest")
    await add_source("apart", topic_prefix="apart-")
    found = one(await check("sources.topics"), "warning")
    assert found.reason.startswith("one and two both write to customer: ")


async def test_sources_that_stand_still(
    check: Examine, add_source: AddSource, pg: asyncpg.Connection, database: Database
) -> None:
    stuck, resting = await add_source("stuck"), await add_source("resting")
    (event,) = await store(pg, new_event(stuck))
    await queue.halt(pg, await row_of(pg, event), "no_route", "it has no topic")
    async with database.begin() as connection:
        await sources.pause(connection, resting)
    halted, paused = await check("sources.stopped")
    assert halted.verdict == "failed"
    assert (
        halted.reason == "stuck stands still at an event (no_route: it has no topic); it receives"
    )
    assert (paused.verdict, paused.fix) == ("warning", "relay source resume resting")


async def test_keys_that_end(
    check: Examine, add_source: AddSource, database: Database, pg: asyncpg.Connection
) -> None:
    source_id = await add_source()
    async with database.begin() as connection:
        await sources.rotate_key(connection, source_id, timedelta(hours=5))
    assert "shop (in 5 hours)" in one(await check("sources.keys"), "warning").reason
    await pg.execute("UPDATE relay.api_key SET expires_at = now() - interval '1 s'")
    assert "answered 401: shop" in one(await check("sources.keys"), "failed").reason


async def test_a_source_that_has_fallen_silent(
    check: Examine, add_source: AddSource, pg: asyncpg.Connection
) -> None:
    silent, rare, new = (
        await add_source("silent"),
        await add_source("rare"),
        await add_source("new"),
    )
    now = datetime.now(UTC)
    # Every hour until 30 hours ago; every day until 2 days ago.
    hourly = [now - timedelta(hours=30 + n) for n in range(100)]
    daily = [now - timedelta(days=2 + n) for n in range(20)]
    for source_id, moments in ((silent, hourly), (rare, daily)):
        await pg.executemany(
            "INSERT INTO relay.event_key (event_id, source_id, inbox_id, received_at)"
            " VALUES ($1, $2, $3, $4)",
            [(f"evt_{source_id}_{n}", source_id, n, at) for n, at in enumerate(moments)],
        )
    found = one(await check("sources.silent"), "warning")
    assert found.reason == "silent has received nothing for 30 hours, and used to every 60 minutes"
    await pg.execute("UPDATE relay.source SET created_at = $1 WHERE id = $2", daily[0], new)
    assert [each.reason.split()[0] for each in await check("sources.silent")] == ["silent", "new"]


async def test_silence_is_found_in_a_sample(
    check: Examine, add_source: AddSource, pg: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, silent = await add_source("busy"), await add_source("silent")
    await fill(pg, busy, 40_000, waiting=0)
    # Nothing but a tenth of what there was, and that two days ago at the latest.
    await pg.execute(
        "UPDATE relay.event_key SET source_id = $1"
        " WHERE inbox_id % 10 = 0 AND received_at < now() - interval '2 days'",
        silent,
    )
    await pg.execute("VACUUM FULL relay.event_key")
    monkeypatch.setattr(traffic, "SAMPLE_PAGES", 150)
    found = one(await check("sources.silent"), "warning")
    assert found.reason.startswith("silent has received nothing for ")


async def test_events_that_wait_and_events_that_died(
    check: Examine, add_source: AddSource, pg: asyncpg.Connection
) -> None:
    one_event, two = await store(
        pg, new_event(source_id := await add_source()), new_event(source_id)
    )
    await bury(pg, two)
    assert one(await check("sources.dead_letters"), "warning").reason == (
        "open dead letters: shop (1)"
    )
    one(await check("sources.backlog"), "ok")
    await pg.execute(
        "UPDATE relay.queue SET received_at = now() - interval '1 hour', visible_at = now(),"
        " last_error_code = 'kafka_transport', last_error = 'no broker' WHERE inbox_id = $1",
        one_event,
    )
    found = one(await check("sources.backlog"), "warning")
    assert found.reason == (
        "1 events of shop wait, the oldest for 60 minutes (kafka_transport: no broker)"
    )


async def test_whether_anything_runs(check: Examine, direct_url: str) -> None:
    one(await check("services.running"), "warning")
    service = Database(direct_url, application_name="relay-forwarder")
    async with service.begin():
        assert one(await check("services.running"), "ok").reason == "relay-forwarder"
    await service.close()


@pytest.mark.parametrize(
    ("ahead", "tolerance", "verdict"),
    [(0.2, 300, "ok"), (-6.0, 300, "warning"), (140.0, 300, "warning"), (31.0, 60, "failed")],
)
async def test_a_clock_that_is_off(
    check: Examine,
    add_source: AddSource,
    monkeypatch: pytest.MonkeyPatch,
    ahead: float,
    tolerance: int,
    verdict: str,
) -> None:
    await add_source("strict", tolerance=tolerance)
    true = vitals.time.time
    monkeypatch.setattr(vitals.time, "time", lambda: true() - ahead)
    one(await check("clock.offset"), verdict)


async def test_it_is_cheap_beside_a_large_inbox(
    add_source: AddSource, pg: asyncpg.Connection, direct_url: str
) -> None:
    """No check reads a whole table of what was received."""
    await fill(pg, await add_source(), 30_000)
    await pg.execute("SELECT pg_stat_force_next_flush()")
    await pg.execute("SELECT 1")
    before = await _read(pg)
    patient = Patient(Settings(database_url=direct_url, encryption_keys=(KEY,)))
    results = await examine(patient)
    await patient.close()
    assert "failed" not in {each.verdict for each in results}
    await eventually(lambda: _ended(pg))  # a session counts what it did when it ends
    await pg.execute("SELECT pg_stat_clear_snapshot()")
    after = await _read(pg)
    assert after["scans"] == before["scans"]
    assert after["rows"] - before["rows"] < 10_000


async def _ended(pg: asyncpg.Connection) -> bool:
    await pg.execute("SELECT pg_stat_clear_snapshot()")
    asked = "SELECT FROM pg_stat_activity WHERE application_name = 'relay-doctor'"
    return not await pg.fetch(asked)


async def _read(pg: asyncpg.Connection) -> asyncpg.Record:
    """Sequential scans of the inbox and the receipts, and the rows that were read by index."""
    return await pg.fetchrow(
        "SELECT sum(seq_scan) AS scans, sum(coalesce(idx_tup_fetch, 0)) AS rows"
        " FROM pg_stat_user_tables WHERE relname ~ '^(inbox|receipt)'"
    )
