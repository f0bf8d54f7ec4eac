"""Every event is accounted for: an audit as a login that may only look, of damaged evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from relay.audit import Scope, audit
from relay.core.errors import ConfigError
from relay.store import deadletters, evidence
from relay.store.engine import Database
from relay.store.events import Filter
from tests.audit.conftest import Inbox, Named
from tests.store.rows import OPERATOR, deliver, new_event, store
from tests.support.logins import as_login


async def test_an_inbox_in_order_is_clean(inbox: Inbox) -> None:
    report = await inbox.audit()
    assert report.violations == ()
    assert {check.name: check.looked_at for check in report.checks} == {
        "accounted": 16,
        "receipts": 17,
        "bodies": 16,
        "keys": 16,
        "orphans": 0,
        "seals": 8,
        "rows": 16,
        "partitions": 6,
    }
    assert report.notes == {}


@pytest.mark.parametrize("login", ["admin", "migrator"])
async def test_others_who_may_look(inbox: Inbox, database_url: str, login: str) -> None:
    database = Database(as_login(database_url, login))
    assert (await audit(database, Scope())).violations == ()
    await database.close()


async def test_while_events_arrive_and_leave_nothing_is_wrong(inbox: Inbox) -> None:
    """One snapshot: neither in the inbox and not yet anywhere else, nor just settled."""
    over = asyncio.Event()

    async def be_busy() -> int:
        number = 0
        async with inbox.database.driver() as pg:
            while not over.is_set():
                number += 1
                (stored,) = await store(pg, new_event(inbox.source_id, f"evt_busy_{number}"))
                await deliver(pg, stored, records=2)
                await inbox.seal()
        return number

    busy = asyncio.create_task(be_busy())
    reports = [await inbox.audit() for _ in range(8)]
    over.set()
    assert await busy > 0
    assert [violation for report in reports for violation in report.violations] == []


async def test_what_moves_while_it_is_looked_for_is_not_lost(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replayed after the line was looked at, and before the dead letters are."""
    look = evidence.dead

    async def late(pg: asyncpg.Connection, ids: Sequence[int]) -> list[asyncpg.Record]:
        async with inbox.database.begin() as connection:
            letters = await deadletters.find_ids(connection, Filter())
            await deadletters.replay(connection, letters, OPERATOR)
        return await look(pg, ids)

    monkeypatch.setattr(evidence, "dead", late)
    assert (await inbox.audit()).violations == ()
    assert await inbox.pg.fetchval("SELECT count(*) FROM relay.queue WHERE kind = 0") == 4


LOST = {
    "delivered": "DELETE FROM relay.receipt WHERE inbox_id = $1",
    "skipped": "DELETE FROM relay.receipt WHERE inbox_id = $1",
    "waiting": "DELETE FROM relay.queue WHERE inbox_id = $1",
    "retrying": "DELETE FROM relay.queue WHERE inbox_id = $1",
    "dead": "DELETE FROM relay.dead_letter WHERE inbox_id = $1",
    # The receipt of its copy says nothing about the event.
    "copied": "DELETE FROM relay.dead_letter WHERE inbox_id = $1",
    "replayed": "DELETE FROM relay.receipt WHERE inbox_id = $1 AND kind = 0",
}


@pytest.mark.parametrize("name", LOST)
async def test_an_event_that_nothing_stands_for_is_lost(
    inbox: Inbox, named: Named, name: str
) -> None:
    await inbox.damage(LOST[name], inbox.ids[name])
    report = await inbox.audit()
    assert named(report) == {("accounted", inbox.ids[name])}
    assert report.violations[0].error.startswith("lost")


async def test_twice_in_the_line(inbox: Inbox, named: Named) -> None:
    await inbox.pg.execute("DROP INDEX relay.queue_inbox_id_key")
    await inbox.damage(
        "INSERT INTO relay.queue SELECT source_id, lane, nextval('relay.arrival'), inbox_id,"
        " received_at, key_hash, bytes FROM relay.queue WHERE inbox_id = $1",
        inbox.ids["waiting"],
    )
    report = await inbox.audit()
    assert named(report) == {("accounted", inbox.ids["waiting"])}
    assert "2 times" in report.violations[0].error


async def test_waiting_and_dead_at_once(inbox: Inbox, named: Named) -> None:
    await inbox.damage(
        "INSERT INTO relay.dead_letter (source_id, inbox_id, received_at, event_id, error_code,"
        " error, attempts) SELECT source_id, id, received_at, event_id, 'x', '', 0"
        " FROM relay.inbox WHERE id = $1",
        inbox.ids["waiting"],
    )
    assert named(await inbox.audit()) == {("accounted", inbox.ids["waiting"])}


async def test_skipped_for_no_known_reason(inbox: Inbox, named: Named) -> None:
    await inbox.pg.execute("ALTER TABLE relay.receipt DROP CONSTRAINT receipt_skipped_check")
    await inbox.damage(
        "UPDATE relay.receipt SET skipped = 'whim' WHERE inbox_id = $1", inbox.ids["skipped"]
    )
    report = await inbox.audit()
    assert named(report) == {("accounted", inbox.ids["skipped"])}
    assert "whim" in report.violations[0].error


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM relay.receipt WHERE inbox_id = $1 AND record = 0",
        "DELETE FROM relay.receipt WHERE inbox_id = $1 AND record = 2",
        "UPDATE relay.receipt SET record = 1 WHERE inbox_id = $1 AND record = 2",
        "UPDATE relay.receipt SET record = 9 WHERE inbox_id = $1 AND record = 3",
    ],
    ids=["the first", "a gap", "a double", "another number"],
)
async def test_the_numbers_of_records(inbox: Inbox, named: Named, change: str) -> None:
    await inbox.damage(change, inbox.ids["many"])
    assert named(await inbox.audit()) == {("receipts", inbox.ids["many"])}


async def test_a_body_that_was_changed(inbox: Inbox, named: Named) -> None:
    await inbox.damage("UPDATE relay.inbox SET body = '{}' WHERE id = $1", inbox.ids["day 2"])
    report = await inbox.audit()
    assert named(report) == {("bodies", inbox.ids["day 2"])}
    assert report.violations[0].event_id == f"old_{inbox.ids['day 2']}"


async def test_a_body_that_was_redacted_is_proven_by_its_redaction(
    inbox: Inbox, named: Named
) -> None:
    there = await inbox.pg.fetchval("SELECT to_regclass('relay.redaction') IS NOT NULL")
    if not there:
        await inbox.pg.execute(
            "CREATE TABLE relay.redaction (inbox_id bigint, received_at timestamptz);"
            "GRANT SELECT ON relay.redaction TO relay_auditor"
        )
    columns = "inbox_id, received_at" + (", body_bytes, reason, operator" if there else "")
    values = "id, received_at" + (", 1, 'asked to', 'ann'" if there else "")
    await inbox.damage("UPDATE relay.inbox SET body = '' WHERE id = $1", inbox.ids["dead"])
    assert named(await inbox.audit()) == {("bodies", inbox.ids["dead"])}
    await inbox.damage(
        f"INSERT INTO relay.redaction ({columns}) SELECT {values} FROM relay.inbox WHERE id = $1",
        inbox.ids["dead"],
    )
    assert named(await inbox.audit()) == set()
    await inbox.damage("UPDATE relay.inbox SET body = 'mine' WHERE id = $1", inbox.ids["dead"])
    assert named(await inbox.audit()) == {("bodies", inbox.ids["dead"])}


async def test_a_key_that_is_gone(inbox: Inbox, named: Named) -> None:
    await inbox.damage("DELETE FROM relay.event_key WHERE inbox_id = $1", inbox.ids["skipped"])
    assert named(await inbox.audit()) == {("keys", inbox.ids["skipped"])}


async def test_a_key_that_points_to_another_event(inbox: Inbox, named: Named) -> None:
    await inbox.damage(
        "UPDATE relay.event_key SET inbox_id = $2 WHERE inbox_id = $1",
        inbox.ids["dead"],
        inbox.ids["skipped"],
    )
    assert named(await inbox.audit()) == {
        ("keys", inbox.ids["dead"]),
        ("orphans", inbox.ids["skipped"]),
    }


ORPHANS = {
    "queue row": "INSERT INTO relay.queue (source_id, lane, number, inbox_id, received_at,"
    " key_hash, bytes) SELECT source_id, 0, 7000000, 7000000, received_at, 0, 1",
    "receipt": "INSERT INTO relay.receipt (inbox_id, received_at, number, record, kind, attempts,"
    " skipped, produced_at) SELECT 7000000, received_at, 7000000, 0, 0, 0, 'unselected', now()",
    "dead letter": "INSERT INTO relay.dead_letter (source_id, inbox_id, received_at, event_id,"
    " error_code, error, attempts) SELECT source_id, 7000000, received_at, 'evt_no', 'x', '', 0",
    "event key": "INSERT INTO relay.event_key SELECT 'evt_no', source_id, 7000000, received_at",
}


@pytest.mark.parametrize("kind", ORPHANS)
async def test_what_points_to_no_event(inbox: Inbox, named: Named, kind: str) -> None:
    await inbox.damage(f"{ORPHANS[kind]} FROM relay.inbox WHERE id = $1", inbox.ids["day 3"])
    report = await inbox.audit()
    assert named(report) == {("orphans", 7_000_000)}
    assert kind in report.violations[0].error


async def test_only_one_source_and_only_from_a_day_on(inbox: Inbox, named: Named) -> None:
    await inbox.damage("UPDATE relay.inbox SET body = '{}' WHERE id = $1", inbox.ids["day 0"])
    other = 7
    await inbox.damage(
        "UPDATE relay.inbox SET source_id = $2 WHERE id = $1", inbox.ids["skipped"], other
    )
    today = Scope(since=inbox.old[4].upper)
    assert named(await inbox.audit(today)) == {
        ("keys", inbox.ids["skipped"]),
        ("orphans", inbox.ids["skipped"]),
    }
    shop = await inbox.audit(Scope(source="shop"))
    assert named(shop) == {("bodies", inbox.ids["day 0"]), ("orphans", inbox.ids["skipped"])}
    assert next(each.looked_at for each in shop.checks if each.name == "accounted") == 15
    with pytest.raises(ConfigError, match="no source 'shopp'"):
        await inbox.audit(Scope(source="shopp"))


async def test_many_pages(inbox: Inbox, named: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is behind the first page is looked at as well."""
    monkeypatch.setattr(evidence, "_PAGE", evidence._PAGE.replace("LIMIT 2000", "LIMIT 3"))
    assert (await inbox.audit()).violations == ()
    await inbox.damage("DELETE FROM relay.receipt WHERE inbox_id = $1", inbox.ids["last"])
    assert named(await inbox.audit()) == {("accounted", inbox.ids["last"])}


async def test_on_a_schema_without_seals(inbox: Inbox) -> None:
    await inbox.pg.execute("DROP TABLE relay.seal")
    with pytest.raises(ConfigError, match="run `relay migrate`"):
        await inbox.audit()
