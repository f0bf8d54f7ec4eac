"""Redaction beside running forwarders: what was claimed settles, and nothing is sent afterwards."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

import msgspec
import pytest

from relay.core.source import SourceConfig
from relay.core.transform import Skip, dead_letter_record, transform
from relay.store import deadletters, queue, redactions, replays
from relay.store.engine import Database
from relay.store.events import Filter, Operator
from tests.core.builders import stored
from tests.forwarder.world import Process, World, event, id_of
from tests.support.logins import as_login
from tests.support.processes import eventually

WHO = Operator("ann@desk", "request 17")


async def redact(database: Database, object_id: str = "cus_1") -> redactions.Extent:
    """As the command does it; what was counted before."""
    async with database.begin() as connection:
        what = await redactions.extent(connection, object_id, None)
    after: int | None = 0
    while after is not None:
        async with database.begin() as connection:
            step = await redactions.redact_some(connection, what, WHO, after=after, limit=3)
        after = step.done
    return what


async def queue_by_hand(world: World, inbox_id: int, kind: int = 0) -> None:
    """A row in the line for an event, whatever became of it before: what a replay leaves that read
    its body just before the erasure."""
    async with world.database.driver() as pg:
        await pg.execute(
            "INSERT INTO relay.queue"
            " (source_id, lane, number, inbox_id, received_at, key_hash, bytes, kind)"
            " SELECT source_id, 0, nextval('relay.arrival'), id, received_at, 0, 9, $2"
            " FROM relay.inbox WHERE id = $1",
            inbox_id,
            kind,
        )


async def skipped_as(world: World, inbox_id: int) -> list[str]:
    rows = await world.fetch(
        "SELECT skipped FROM relay.receipt WHERE inbox_id = $1 AND skipped IS NOT NULL", inbox_id
    )
    return [row["skipped"] for row in rows]


def test_there_is_nothing_to_make_a_record_of() -> None:
    """Whatever the settings of the source: before anything else is looked at."""
    redacted = msgspec.structs.replace(stored("customer.updated"), body=None)
    for settings in ({}, {"mode": "test"}, {"unselected": "FAIL", "resources": frozenset({"x"})}):
        source = SourceConfig(source_id=1, public_id="src_1", name="main", **settings)
        assert transform(redacted, source) == Skip("redacted")
        with pytest.raises(ValueError, match="was redacted"):
            dead_letter_record(redacted, source, "x", "x", 0, None)


async def test_what_reaches_the_line_afterwards_is_skipped(world: World) -> None:
    source = await world.add_source()
    process = world.process()
    one, two = await world.put(source, event(), event())
    await process.drain()
    await redact(world.database)
    await queue_by_hand(world, one)
    await queue_by_hand(world, two, kind=1)
    await process.drain()
    assert await world.queued() == []
    assert await skipped_as(world, one) == await skipped_as(world, two) == ["redacted"]
    assert len(await world.topic("customer", at_least=2)) == 2
    assert await world.topic("dead_letter") == []


async def test_a_suspect_is_skipped_and_not_buried(world: World) -> None:
    """Its process has failed too often with it: recovery would make a dead letter of it."""
    source = await world.add_source()
    process = world.process()
    (inbox_id,) = await world.put(source, event())
    await process.drain()
    await redact(world.database)
    await queue_by_hand(world, inbox_id)
    async with world.database.driver() as pg:
        await pg.execute("UPDATE relay.queue SET alone = true, crashes = 7")
        await queue.write_note(pg, uuid4(), uuid4(), 1, await world.queued())
    await world.age_notes()
    assert await process.recovery.run_once() == 1
    assert await world.value("SELECT count(*) FROM relay.dead_letter") == 0
    await process.drain()
    assert await skipped_as(world, inbox_id) == ["redacted"]
    assert len(await world.topic("customer")) == 1


async def test_a_batch_in_flight_settles_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read, transformed and on its way: delivered with its receipt, and erased then."""
    source = await world.add_source()
    process = world.process()
    (inbox_id,) = await world.put(source, event())
    sending, go = asyncio.Event(), asyncio.Event()
    original = process.shared.delivery.send

    async def send(*args: object) -> None:
        sending.set()
        await go.wait()
        await original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(process.shared.delivery, "send", send)
    batch = asyncio.create_task(process.forwarder.run_once())
    await sending.wait()
    redaction = asyncio.create_task(redact(world.database))
    waits = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"
    await eventually(lambda: redaction.done() or world.value(waits))
    assert not redaction.done()
    go.set()
    assert await batch == 1
    await redaction
    assert await world.state_of(inbox_id) == "delivered"
    assert await world.value("SELECT body FROM relay.inbox") == b""
    (message,) = await world.topic("customer")
    assert json.loads(message.value() or b"")["id"] == "cus_1"


async def test_beside_forwarders_that_never_stop(world: World) -> None:
    """Waiting, delivered, dead and replayed ones, while two processes forward and others arrive.

    Whatever is not delivered is skipped as redacted, no record is made of nothing, every receipt
    tells of a record that is there, and other objects do not notice.
    """
    source = await world.add_source(resources=frozenset({"customer"}), unselected="FAIL")
    admin = Database(as_login(world.database.dsn, "admin"))
    processes = [world.process(batch_rows=5), world.process(batch_rows=5)]
    stop = asyncio.Event()

    async def forward(process: Process) -> None:
        while not stop.is_set():
            if not await process.forwarder.run_once():
                await asyncio.sleep(0.005)

    running = [asyncio.create_task(forward(process)) for process in processes]
    bodies: dict[int, bytes] = {}
    for number in range(30):
        kinds = ("customer.updated", "charge.updated") if number % 5 == 0 else ("customer.updated",)
        for object_id in ("cus_1", "cus_2"):
            new = [event(kind, object_id, number=number) for kind in kinds]
            bodies |= zip(await world.put(source, *new), new, strict=True)
        if number in (8, 16, 24):
            async with admin.begin() as connection:
                letters = await deadletters.find_ids(connection, Filter())
                await deadletters.replay(connection, letters, WHO)
            done = await world.fetch(
                "SELECT id, received_at FROM relay.events WHERE state = 'delivered'"
            )
            async with admin.begin() as connection:
                await replays.replay(connection, [tuple(row) for row in done], WHO)
            await redact(admin)
    await eventually(lambda: _is_idle(world))
    stop.set()
    await asyncio.gather(*running)
    last = await redact(admin)
    assert last.redacted >= 3 * 8
    await admin.close()
    rows = await world.fetch("SELECT id, object_id, body, event_type FROM relay.inbox")
    assert {row["body"] for row in rows if row["object_id"] == "cus_1"} == {b""}
    kept = {row["id"]: row["body"] for row in rows if row["object_id"] == "cus_2"}
    assert kept == {inbox_id: bodies[inbox_id] for inbox_id in kept}
    states = await world.fetch("SELECT id, object_id, state, skip_reason FROM relay.events")
    assert len(states) == len(bodies)
    assert {
        (row["state"], row["skip_reason"]) for row in states if row["object_id"] == "cus_1"
    } <= {
        ("delivered", None),
        ("skipped", "redacted"),
    }
    assert {row["state"] for row in states if row["object_id"] == "cus_2"} == {"delivered", "dead"}
    found = {(m.partition(), m.offset()): m for m in await world.topic("customer")}
    known = {id_of(body): json.loads(body)["data"]["object"]["number"] for body in bodies.values()}
    for message in found.values():
        value = json.loads(message.value() or b"")
        assert value["number"] == known[value["_event_id"]]
    told = await world.fetch('SELECT partition, "offset" FROM relay.receipt WHERE topic LIKE $1',
                             "%customer")  # fmt: skip
    assert {tuple(row) for row in told} <= found.keys()
    for message in await world.topic("dead_letter"):
        assert json.loads(message.value() or b"")["id"] in known


async def _is_idle(world: World) -> bool:
    return bool(await world.value("SELECT NOT EXISTS (SELECT FROM relay.queue)"))
