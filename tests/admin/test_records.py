"""Records are shown as they stand in Kafka, and nothing else is taken for them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from relay.dev.process import free_port
from tests.admin.reader import Page
from tests.admin.world import LOCKED, OPERATOR, VIEWER, Served, served
from tests.forwarder.conftest import world
from tests.forwarder.world import World, event
from tests.store.rows import deliver, new_event, store

__all__ = ["world"]


@pytest_asyncio.fixture
async def desk(database_url: str, kafka: str) -> AsyncIterator[Served]:
    async with served(database_url, **LOCKED, kafka_bootstrap_servers=kafka) as made:
        yield made


async def forwarded(world: World, *bodies: bytes) -> list[int]:
    source = await world.add_source(tombstones=True)
    ids = await world.put(source, *bodies)
    process = world.process()
    await process.drain()
    return ids


async def read(desk: Served, inbox_id: int, status: int = 200, token: str = OPERATOR) -> dict:
    answer = await desk.client(token).get(f"/api/events/{inbox_id}/records")
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_headers_and_values_are_those_in_kafka(desk: Served, world: World) -> None:
    ids = await forwarded(
        world,
        event(object_id="cus_1", name="<script>alert(1)</script>", balance=10**29),
        event("customer.deleted", object_id="cus_2"),
    )
    (record,) = (await read(desk, ids[0]))["records"]
    (message,) = [
        each
        for each in await world.reader.read_topic(f"{world.prefix}customer", at_least=3)
        if each.key() == b'{"id":"cus_1"}'
    ]
    assert record["found"] == "as produced"
    assert (record["topic"], record["partition"], record["offset"]) == (
        message.topic(),
        message.partition(),
        message.offset(),
    )
    assert record["key"] == '{"id":"cus_1"}'
    assert record["value"].encode() == message.value()
    assert record["value_bytes"] == len(message.value())
    assert [(h["name"], h["value"].encode()) for h in record["headers"]] == message.headers()

    value, tombstone = (await read(desk, ids[1]))["records"]
    assert json.loads(value["value"])["__deleted"] is True
    assert (tombstone["value"], tombstone["value_bytes"]) == (None, None)

    for inbox_id in ids:
        answer = await desk.client(OPERATOR).get(f"/events/{inbox_id}/records")
        page = Page(answer.text)
        assert page.faults == []
        assert "_event_id" in page.text
    assert "A tombstone" in page.text
    shown = await desk.client(OPERATOR).get(f"/events/{ids[0]}")
    assert f'href="/events/{ids[0]}/records"' in shown.text


async def test_what_is_not_there_is_not_made_up(
    desk: Served, world: World, pg: asyncpg.Connection, apache_kafka: bool
) -> None:
    # The embedded broker is silent about an offset that it never had.
    beyond = ("gone", "no record") if apache_kafka else ("unread", "in time")
    ids = await forwarded(world, *(event(object_id="cus_1") for _ in range(3)))
    await pg.execute("ALTER TABLE relay.receipt DISABLE TRIGGER USER")
    change = 'UPDATE relay.receipt SET topic = $2, "offset" = $3 WHERE inbox_id = $1'
    topic = f"{world.prefix}customer"
    await pg.execute(change, ids[0], topic, 1)  # where the second event's record is
    await pg.execute(change, ids[1], topic, 1_000_000)
    await pg.execute(change, ids[2], f"{world.prefix}none", 0)
    found = [(await read(desk, each))["records"][0] for each in ids]
    assert [each["found"] for each in found] == ["another", beyond[0], "gone"]
    assert [each["value"] for each in found] == [None] * 3
    for inbox_id, said in zip(ids, ("not of this event", beyond[1], "no record"), strict=True):
        page = Page((await desk.client(OPERATOR).get(f"/events/{inbox_id}/records")).text)
        assert page.faults == []
        assert said in page.text


async def test_many_records_have_pages(
    desk: Served, world: World, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id))
    await deliver(pg, inbox_id, records=25)
    api = desk.client(OPERATOR)
    first = (await api.get(f"/api/events/{inbox_id}/records")).json()
    assert (len(first["records"]), first["next"]) == (20, 20)
    rest = (await api.get(f"/api/events/{inbox_id}/records?start=20")).json()
    assert (len(rest["records"]), rest["next"]) == (5, None)
    assert (await api.get(f"/api/events/{inbox_id}/records?start=x")).status_code == 400


async def test_who_may_not_see_bodies_sees_no_records(
    desk: Served, database_url: str, kafka: str, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id))
    await deliver(pg, inbox_id)
    path = f"/events/{inbox_id}/records"
    await read(desk, inbox_id, 403, VIEWER)
    assert (await desk.client(VIEWER).get(path)).status_code == 403
    assert path not in (await desk.client(VIEWER).get(f"/events/{inbox_id}")).text
    hidden = LOCKED | {"admin_hide_bodies": True, "kafka_bootstrap_servers": kafka}
    async with served(database_url, **hidden) as other:
        await read(other, inbox_id, 403)
    await pg.execute(
        "INSERT INTO relay.redaction (inbox_id, received_at, body_bytes, operator, reason)"
        " SELECT id, received_at, length(body), 'ana', 'asked to' FROM relay.inbox"
    )
    assert "redacted" in (await read(desk, inbox_id, 409))["detail"]
    await read(desk, 0, 404)


async def test_without_kafka_it_says_so(
    dashboard: Served, database_url: str, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id))
    await deliver(pg, inbox_id)
    told = (await read(dashboard, inbox_id, 409))["detail"]
    assert "RELAY_KAFKA_BOOTSTRAP_SERVERS" in told
    assert "/records" not in (await dashboard.client(OPERATOR).get(f"/events/{inbox_id}")).text
    nowhere = LOCKED | {"kafka_bootstrap_servers": f"127.0.0.1:{free_port()}"}
    async with served(database_url, **nowhere) as away:
        answer = await read(away, inbox_id, 503)
        assert answer["error"] == "kafka_away"
