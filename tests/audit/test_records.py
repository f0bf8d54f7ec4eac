"""The topics, read back and compared: what a forwarder has sent, and what was done to it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from confluent_kafka import Producer

from relay.audit import Records, Report, Scope, audit, records
from relay.core.source import SourceConfig
from relay.kafka import TopicReader
from relay.store import deadletters, events
from relay.store.engine import Database
from tests.forwarder.world import World, event
from tests.store.rows import OPERATOR
from tests.support.logins import as_login

INVOICE: dict[str, Any] = {
    "lines": {
        "object": "list",
        "has_more": True,
        "data": [{"id": "il_1", "amount": 1.10}, {"id": "il_2", "amount": 100}],
    },
    "_event_id": "mine",
}


class Topics(World):
    """Events of every shape, forwarded, and an audit of it as a login that may only look."""

    async def fill(self) -> None:
        self.source = await self.add_source(
            fan_out=("invoice.lines",), tombstones=True, resources=("customer", "invoice")
        )
        self.ids = await self.put(
            self.source,
            event("customer.created", "cus_1", balance=12345678901234567890123),
            event("customer.updated", "cus_1"),
            event("customer.deleted", "cus_2"),
            event("invoice.paid", "in_1", account="acct_1", **INVOICE),
            event("balance.available", None),
            event("payout.paid!", "po_1"),
        )
        self.forwarder = self.process()
        await self.forwarder.drain()
        self.audit_database = Database(as_login(self.database.dsn, "auditor"))

    async def audit(self, **scope: Any) -> Report:
        looked = Records(str(self.settings.kafka_bootstrap_servers))
        try:
            return await audit(self.audit_database, Scope(**scope), looked)
        finally:
            looked.close()

    async def damage(self, statement: str, *arguments: object) -> None:
        async with self.database.driver() as pg, pg.transaction():
            await pg.execute("SET LOCAL session_replication_role = replica")
            assert not (await pg.execute(statement, *arguments)).endswith(" 0")

    def produce(self, like: Any, **changes: Any) -> None:
        """Another record beside one that stands there."""
        producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap_servers})
        given = {"key": like.key(), "value": like.value(), "headers": like.headers()} | changes
        producer.produce(like.topic(), partition=like.partition(), **given)
        assert producer.flush(30) == 0

    async def close(self) -> None:
        await self.audit_database.close()
        await super().close()


@pytest_asyncio.fixture
async def topics(
    database: Database, kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Topics]:
    monkeypatch.setattr(records, "_STALLED_SECONDS", 2.0)
    world = Topics(database, kafka, topic_prefix)
    await world.fill()
    yield world
    await world.close()


def looked_at(report: Report) -> dict[str, int]:
    return {check.name: check.looked_at for check in report.checks}


def complaints(report: Report) -> set[tuple[str, str | None]]:
    return {(each.check, each.event_id) for each in report.violations}


async def event_id(topics: Topics, number: int) -> str:
    return str(
        await topics.value("SELECT event_id FROM relay.inbox WHERE id = $1", topics.ids[number])
    )


async def test_what_was_forwarded_stands_where_its_receipts_say(topics: Topics) -> None:
    report = await topics.audit()
    assert report.violations == ()
    # A parent each, a tombstone, two children.
    assert looked_at(report)["records"] == 9
    assert looked_at(report)["repeats"] == 0
    assert report.notes.keys() <= {"rows_not_sealed_yet"}


async def test_settings_that_changed_since_are_no_violation(topics: Topics) -> None:
    await topics.change_source(
        topics.source, metadata=False, tombstones=False, fan_out=(), default_topic="other"
    )
    await topics.put(topics.source, event("customer.updated", "cus_1"))
    await topics.forwarder.drain()
    report = await topics.audit()
    assert report.violations == ()
    assert looked_at(report)["records"] == 10


async def test_replays_and_copies_of_dead_letters(topics: Topics) -> None:
    (dead,) = await topics.put(topics.source, event("customer.updated", "cus_3"))
    await topics.change_source(topics.source, resources=("invoice",), unselected="FAIL")
    await topics.forwarder.drain()
    assert await topics.state_of(dead) == "dead"
    await topics.change_source(topics.source, resources=("customer",), unselected="SKIP")
    async with topics.database.begin() as connection:
        (letter,) = await deadletters.find_ids(connection, events.Filter())
        await deadletters.replay(connection, [letter], OPERATOR)
    await topics.forwarder.drain()
    report = await topics.audit()
    assert report.violations == ()
    assert looked_at(report)["records"] == 11


async def test_a_receipt_that_names_another_place(topics: Topics) -> None:
    await topics.damage(
        'UPDATE relay.receipt SET "offset" = "offset" + 1000 WHERE inbox_id = $1', topics.ids[0]
    )
    report = await topics.audit()
    assert complaints(report) == {("records", await event_id(topics, 0))}
    assert "there is no record" in report.violations[0].error
    assert looked_at(report)["repeats"] == 1


async def test_a_topic_without_many_records_is_asked_once_for_all_of_them(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after it was deleted and made again: each answer takes up to half a second."""
    await topics.put(topics.source, *[event("customer.updated", "cus_1") for _ in range(50)])
    await topics.forwarder.drain()
    await topics.damage('UPDATE relay.receipt SET "offset" = "offset" + 1000000')
    asked: list[tuple[str, int]] = []
    watermarks = TopicReader.watermarks

    def count(self: TopicReader, topic: str, partition: int) -> tuple[int, int]:
        asked.append((topic, partition))
        return watermarks(self, topic, partition)

    monkeypatch.setattr(TopicReader, "watermarks", count)
    report = await topics.audit()
    missing = [
        v for v in report.violations if v.error == "there is no record where its receipt says"
    ]
    assert len(missing) > 50
    assert max(Counter(asked).values()) == 2  # its bounds, and once more at the end


async def test_a_receipt_that_names_the_record_of_another_event(topics: Topics) -> None:
    """Two events of one object, so in one partition."""
    await topics.damage(
        'UPDATE relay.receipt t SET "offset" = o."offset" FROM relay.receipt o'
        " WHERE t.inbox_id = $1 AND o.inbox_id = $2",
        topics.ids[0],
        topics.ids[1],
    )
    report = await topics.audit()
    errors = " ".join(each.error for each in report.violations)
    assert "two receipts name this record" in errors
    assert "another record stands there: _event_id, _inbox_id, __op differs" in errors


async def test_a_receipt_with_another_key(topics: Topics) -> None:
    await topics.damage(
        """UPDATE relay.receipt SET key = '{"id":"cus_9"}' WHERE inbox_id = $1""", topics.ids[1]
    )
    report = await topics.audit()
    assert complaints(report) == {("records", await event_id(topics, 1))}
    assert "key" in report.violations[0].error


@pytest.mark.parametrize("number", [0, 3], ids=["of one record", "with children"])
async def test_bytes_that_do_not_give_what_was_sent(topics: Topics, number: int) -> None:
    """The inbox was changed and made to look right; the topic still knows."""
    await topics.damage(
        "UPDATE relay.inbox SET body = convert_to(replace(replace(convert_from(body, 'UTF8'),"
        " '1.1', '1.2'), '\"balance\"', '\"balanced\"'), 'UTF8') WHERE id = $1",
        topics.ids[number],
    )
    await topics.damage(
        "UPDATE relay.inbox SET body_sha256 = sha256(body) WHERE id = $1", topics.ids[number]
    )
    report = await topics.audit()
    assert complaints(report) == {("records", await event_id(topics, number))}
    assert {each.error for each in report.violations} == {
        "its value is not what the stored bytes give"
    }


async def test_repeats_are_counted_and_must_say_the_same(topics: Topics) -> None:
    standing = await topics.topic("customer", at_least=4)
    for each in standing[:3]:
        topics.produce(each)
    report = await topics.audit()
    assert report.violations == ()
    assert looked_at(report)["repeats"] == 3
    value = json.loads(standing[0].value())
    topics.produce(standing[0], value=json.dumps(value | {"balance": 1}).encode())
    report = await topics.audit()
    (violation,) = report.violations
    assert violation.check == "repeats"
    assert (violation.topic, violation.partition) == (
        standing[0].topic(),
        standing[0].partition(),
    )


async def test_records_of_somebody_else_are_not_ours_to_judge(topics: Topics) -> None:
    standing = (await topics.topic("customer", at_least=4))[0]
    topics.produce(standing, headers=[("_inbox_id", b"1"), ("_event_id", b"evt_else")])
    topics.produce(standing, headers=None, value=b"anything")
    report = await topics.audit()
    assert report.violations == ()
    assert report.notes["records_of_no_stored_event"] == 2


async def test_a_topic_that_is_gone(topics: Topics) -> None:
    await topics.damage("UPDATE relay.receipt SET topic = 'gone' WHERE topic LIKE '%invoice'")
    report = await topics.audit()
    (violation,) = (each for each in report.violations if each.check == "topics")
    assert violation.topic == "gone"
    assert "1 receipts" in violation.error


async def test_a_partition_that_is_gone(topics: Topics) -> None:
    await topics.damage("UPDATE relay.receipt SET partition = 77 WHERE topic LIKE '%invoice'")
    report = await topics.audit()
    assert [(each.check, each.partition) for each in report.violations] == [("topics", 77)]


async def test_what_kafka_has_let_go_is_expired(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets below the low watermark, which the embedded broker never moves."""
    real = records.TopicReader.watermarks
    gone: set[tuple[str, int]] = set()

    def later(self: Any, topic: str, partition: int) -> tuple[int, int]:
        low, high = real(self, topic, partition)
        if topic.endswith("invoice_lines"):
            gone.add((topic, partition))
            return high + 100, high + 100
        return low, high

    monkeypatch.setattr(records.TopicReader, "watermarks", later)
    report = await topics.audit()
    assert gone
    assert report.violations == ()
    assert report.notes["records_expired"] == 2
    assert looked_at(report)["records"] == 7


async def test_what_compaction_has_taken_is_expired(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def compacted(self: Records, topic: str) -> bool:
        return topic.endswith("customer")

    await topics.damage(
        'UPDATE relay.receipt SET "offset" = "offset" + 1000 WHERE inbox_id = $1', topics.ids[0]
    )
    monkeypatch.setattr(Records, "_is_compacted", compacted)
    report = await topics.audit()
    assert report.violations == ()
    assert report.notes["records_expired"] == 1


async def test_a_part_of_the_events(topics: Topics) -> None:
    other: SourceConfig = await topics.add_source("other", resources=("customer",))
    (stored,) = await topics.put(other, event("customer.updated", "cus_1"))
    await topics.forwarder.drain()
    report = await topics.audit(source="other")
    assert (looked_at(report)["records"], looked_at(report)["repeats"]) == (1, 0)
    await topics.damage(
        'UPDATE relay.receipt SET "offset" = "offset" + 1000 WHERE inbox_id = $1', stored
    )
    assert len((await topics.audit(source="other")).violations) == 1
    assert (await topics.audit(source="main")).violations == ()


async def test_while_events_are_forwarded_nothing_is_wrong(topics: Topics) -> None:
    over = asyncio.Event()

    async def be_busy() -> None:
        while not over.is_set():
            await topics.put(topics.source, event("customer.updated", "cus_1"))
            await topics.forwarder.drain()

    busy = asyncio.create_task(be_busy())
    reports = [await topics.audit() for _ in range(3)]
    over.set()
    await busy
    assert [each for report in reports for each in report.violations] == []
