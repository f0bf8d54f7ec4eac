"""What Apache Kafka refuses: sizes, names, and what the client may not do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
import pytest_asyncio
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from relay.store.engine import Database
from tests.forwarder.world import World, event, header, id_of, ids_of
from tests.support.kafka import ApacheKafka
from tests.support.processes import eventually

pytestmark = pytest.mark.usefixtures("needs_apache")

MB = 1024 * 1024


def noise(size: int, seed: int = 1) -> str:
    """Text that no compression makes smaller than about three quarters."""
    return random.Random(seed).randbytes(size // 2).hex()


def incompressible(object_id: str, size: int, event_type: str = "customer.updated") -> bytes:
    """An event of which even the compressed bytes are about ``size``."""
    return event(event_type, object_id, note=noise(size * 2))


async def make_topic(world: World, name: str, **settings: str) -> None:
    wanted = NewTopic(
        world.prefix + name, 1, config={k.replace("_", "."): v for k, v in settings.items()}
    )
    (future,) = world.reader._admin.create_topics([wanted]).values()
    await asyncio.to_thread(future.result)


async def test_what_the_topic_does_not_take_even_alone_is_dead_and_its_neighbours_are_not(
    world: World,
) -> None:
    source = await world.add_source()
    large = incompressible("cus_large", 2 * MB)
    fits = incompressible("cus_fits", MB // 2)
    small = [event(object_id=f"cus_{number}") for number in range(50)]
    behind = event(object_id="cus_large")
    inbox_id = (await world.put(source, *small[:25], large, fits, *small[25:], behind))[25]
    process = world.process()

    async def done() -> bool:
        await world.make_due()
        await process.drain()
        return not await world.queued()

    # librdkafka repeats what it cannot tell to have arrived: of such a record the offset is not
    # known, and it is sent once more.
    await eventually(done)
    assert await world.state_of(inbox_id) == "dead"
    (letter,) = await world.fetch("SELECT * FROM relay.dead_letters")
    assert (letter["error_code"], letter["attempts"]) == ("too_large", 1)
    delivered = [id_of(fits), id_of(behind), *ids_of(small)]
    assert {k for k, v in (await world.states()).items() if v == "delivered"} == set(delivered)
    assert set(await world.ids_in("customer")) == set(delivered)
    (copy,) = await world.topic("dead_letter")
    assert header(copy, "__error_code") == "too_large"
    assert header(copy, "__truncated") == "true"
    value = copy.value() or b""
    assert large.startswith(value)
    assert len(value) > MB // 2, "as much of it as the topic takes"


async def test_a_topic_with_a_small_limit_takes_what_fits_one_by_one(world: World) -> None:
    source = await world.add_source()
    await make_topic(world, "customer", max_message_bytes="6000")
    bodies = [incompressible(f"cus_{number}", 2500) for number in range(40)]
    await world.put(source, *bodies)
    await world.process().drain()
    assert sorted(await world.ids_in("customer")) == sorted(ids_of(bodies))
    assert set((await world.states()).values()) == {"delivered"}


async def test_children_that_are_too_large_together_arrive_in_halves(world: World) -> None:
    source = await world.add_source(resources=("invoice",), fan_out=("invoice.lines",))
    await make_topic(world, "invoice_lines", max_message_bytes="6000")
    lines = [{"id": f"il_{number}", "note": noise(4000, number)} for number in range(30)]
    await world.put(source, event("invoice.paid", "in_1", lines={"object": "list", "data": lines}))
    await world.process().drain()
    assert set((await world.states()).values()) == {"delivered"}
    places = await world.fetch("SELECT DISTINCT record FROM relay.deliveries")
    assert len(places) == 31


async def test_what_is_larger_than_any_record_is_dead_with_a_copy_that_fits(world: World) -> None:
    source = await world.add_source()
    body = event(note=noise(45 * MB))
    (inbox_id,) = await world.put(source, body)
    await world.process().drain()
    assert await world.state_of(inbox_id) == "dead"
    (copy,) = await world.topic("dead_letter")
    assert body.startswith(copy.value() or b"")


async def test_a_name_that_collides_with_another_topic_is_a_dead_letter(world: World) -> None:
    await make_topic(world, "a.customer")
    source = await world.add_source(topic_prefix=world.prefix + "a_", dlq_topic="dead")
    body = event()
    (inbox_id,) = await world.put(source, body)
    await world.process().drain()
    assert await world.state_of(inbox_id) == "dead"
    assert await world.value("SELECT error_code FROM relay.dead_letters") == "invalid_topic"
    (copy,) = await world.topic("a_dead")
    assert copy.value() == body


async def test_topics_that_cannot_be_made_as_configured_wait_with_the_reason(world: World) -> None:
    source = await world.add_source(resources=("customer", "price"))
    await make_topic(world, "price")
    waiting, other = event("customer.created"), event("price.created", "price_1")
    await world.put(source, waiting, other)
    process = world.process(topic_replication_factor=7)
    assert await process.drain() == 2
    assert await world.states() == {id_of(waiting): "pending", id_of(other): "delivered"}
    (row,) = await world.waiting()
    assert (row["code"], row["attempts"]) == ("kafka_invalid_replication_factor", 0)
    assert row["seconds"] > 30, "probed at the pace of a refusal"
    assert await world.process().drain() == 0
    await world.make_due()
    assert await world.process().drain() == 1


@pytest_asyncio.fixture(scope="module")
async def guarded(
    tmp_path_factory: pytest.TempPathFactory, apache_kafka: bool
) -> AsyncIterator[str]:
    """A broker with an authorizer that lets everybody do what no rule speaks of."""
    if not apache_kafka:
        yield ""
        return
    settings = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    directory = tmp_path_factory.mktemp("guarded")
    async with ApacheKafka(directory, settings=settings) as broker:
        yield broker.bootstrap_servers


@pytest_asyncio.fixture
async def guarded_world(
    database: Database, guarded: str, topic_prefix: str
) -> AsyncIterator[World]:
    world = World(database, guarded, topic_prefix)
    yield world
    await world.close()


DENY, ALLOW = AclPermissionType.DENY, AclPermissionType.ALLOW
# A topic that has any rule is closed to all that no rule allows.
NO_WRITING = ((AclOperation.WRITE, DENY), (AclOperation.DESCRIBE, ALLOW))
NOTHING = ((AclOperation.ALL, DENY),)


class Rules:
    """Rules about one topic, for every client."""

    def __init__(
        self, bootstrap_servers: str, topic: str, rules: Iterable[tuple[AclOperation, Any]]
    ) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers})
        where = (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*")
        self._made = [AclBinding(*where, operation, kind) for operation, kind in rules]
        self._gone = AclBindingFilter(*where, AclOperation.ANY, AclPermissionType.ANY)

    async def make(self) -> None:
        for future in self._admin.create_acls(self._made).values():
            await asyncio.to_thread(future.result)

    async def drop(self) -> None:
        for future in self._admin.delete_acls([self._gone]).values():
            await asyncio.to_thread(future.result)


@pytest.mark.parametrize("rules", [NO_WRITING, NOTHING], ids=["no writing", "nothing at all"])
async def test_what_may_not_be_written_waits_and_goes_on_by_itself(
    guarded_world: World, guarded: str, rules: Iterable[tuple[AclOperation, Any]]
) -> None:
    world = guarded_world
    guard = Rules(guarded, f"{world.prefix}price", rules)
    await make_topic(world, "price")
    await guard.make()
    source = await world.add_source(resources=("customer", "price"))
    refused = [event("price.created", "price_1"), event("price.updated", "price_1")]
    other = event("customer.created")
    await world.put(source, *refused, other)
    process = world.process(probe_seconds=0.2)

    async def known() -> bool:
        await world.make_due()
        await process.drain()
        return (await world.waiting())[0]["code"] == "kafka_topic_authorization_failed"

    await eventually(known)
    assert (await world.states())[id_of(other)] == "delivered"
    first, behind = await world.waiting()
    assert first["attempts"] == 0
    assert "authorization" in first["error"]
    assert behind["code"] is None, "it waits behind the first"
    more = event("customer.updated")
    await world.put(source, more)
    await process.drain()
    assert (await world.states())[id_of(more)] == "delivered", "nothing else is held up"

    await guard.drop()

    async def delivered() -> bool:
        await world.make_due()
        await process.drain()
        return not await world.queued()

    await eventually(delivered)
    assert await world.ids_in("price") == ids_of(refused)
    assert await world.value("SELECT max(attempts) FROM relay.receipt") == 0


async def test_a_refusal_is_probed_once_in_its_time_and_not_for_every_event(
    guarded_world: World, guarded: str
) -> None:
    world = guarded_world
    await make_topic(world, "price")
    await Rules(guarded, f"{world.prefix}price", NO_WRITING).make()
    source = await world.add_source(resources=("price",))
    process = world.process(probe_seconds=3600.0)
    produce = process.kafka.produce
    tried = 0

    def count(record: Any, flight: Any) -> None:
        nonlocal tried
        tried += 1
        produce(record, flight)

    process.kafka.produce = count  # type: ignore[method-assign]
    await world.put(source, event("price.created", "price_0"))

    async def refused() -> bool:
        await world.make_due()
        await process.drain()
        return (await world.waiting())[0]["code"] == "kafka_topic_authorization_failed"

    await eventually(refused)
    before = tried
    for number in range(1, 6):
        await world.put(source, event("price.created", f"price_{number}"))
        await process.drain()
    assert tried == before
    assert [row["code"] for row in await world.waiting()] == [
        "kafka_topic_authorization_failed"
    ] * 6
    assert all(row["seconds"] > 2000 for row in (await world.waiting())[1:])
