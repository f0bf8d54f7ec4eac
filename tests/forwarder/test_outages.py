"""Brokers that are away, freeze or come back: nothing dies, nothing is counted, all arrives."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from confluent_kafka.admin import NewTopic

from relay.dev.broker import EmbeddedBroker
from relay.store.engine import Database
from tests.forwarder.world import Process, World, event, id_of, ids_of
from tests.support.kafka import ApacheKafka
from tests.support.processes import eventually


class OneBroker:
    """A broker of this test alone that can go away and come back, at the same address."""

    def __init__(self, directory: Path, *, apache: bool) -> None:
        self._directory = directory
        self._apache = ApacheKafka(directory) if apache else None
        self._embedded: EmbeddedBroker | None = None
        self._port: int | None = None

    @property
    def bootstrap_servers(self) -> str:
        if self._apache is not None:
            return self._apache.bootstrap_servers
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        if self._apache is not None:
            return self._apache.pid()
        assert self._embedded is not None
        return self._embedded.pid

    async def start(self) -> None:
        if self._apache is not None:
            await asyncio.to_thread(self._apache.start)
            return
        log = self._directory / "broker.log"
        self._embedded = EmbeddedBroker(log, preferred_port=self._port)
        await asyncio.to_thread(self._embedded.start)
        assert self._port in (None, self._embedded.port)
        self._port = self._embedded.port

    async def stop(self) -> None:
        if self._apache is not None:
            await asyncio.to_thread(self._apache.stop)
        elif self._embedded is not None:
            await asyncio.to_thread(self._embedded.stop)


@pytest_asyncio.fixture
async def broker(tmp_path: Path, apache_kafka: bool) -> AsyncIterator[OneBroker]:
    broker = OneBroker(tmp_path, apache=apache_kafka)
    await broker.start()
    yield broker
    await broker.stop()


@pytest_asyncio.fixture
async def lonely(database: Database, broker: OneBroker, topic_prefix: str) -> AsyncIterator[World]:
    """A world on that broker."""
    world = World(database, broker.bootstrap_servers, topic_prefix)
    yield world
    await world.close()


def emptied(world: World, process: Process) -> Callable[[], object]:
    """Forwards what is due, and tells whether the queue is empty."""

    async def forward() -> bool:
        await world.make_due()
        await process.drain()
        return not await world.queued()

    return forward


async def assert_nothing_was_counted(world: World) -> None:
    assert await world.fetch("SELECT * FROM relay.attempt") == []
    assert await world.fetch("SELECT * FROM relay.dead_letter") == []
    assert await world.value("SELECT max(attempts) FROM relay.receipt") == 0


async def test_nothing_is_claimed_while_kafka_is_away_and_all_arrives_afterwards(
    lonely: World, broker: OneBroker
) -> None:
    world = lonely
    source = await world.add_source()
    process = world.process(delivery_timeout_seconds=1.0)
    before = [event(object_id=f"cus_{number % 5}") for number in range(20)]
    await world.put(source, *before)
    assert await process.drain() == 20

    await broker.stop()
    during = [event(object_id=f"cus_{number % 5}") for number in range(50)]
    await world.put(source, *during)
    await eventually(lambda: _noticed(process))
    assert await process.forwarder.run_once() == 0
    assert await world.notes() == []
    assert len(await world.queued()) == 50
    assert {row["attempts"] for row in await world.waiting()} == {0}
    states = await world.states()
    assert {states[each] for each in ids_of(during)} == {"pending"}

    await broker.start()
    await eventually(emptied(world, process), deadline=60)
    await assert_nothing_was_counted(world)
    arrived = await world.ids_in("customer", at_least=50)
    for key in range(5):
        mine = [each for each in arrived if each in ids_of(during)[key::5]]
        # The last occurrences: what timed out may have arrived all the same.
        assert list(dict.fromkeys(reversed(mine))) == ids_of(during)[key::5][::-1]


async def _noticed(process: Process) -> bool:
    await process.drain()
    return process.kafka.is_down


async def test_a_process_that_starts_while_kafka_is_away_waits_for_it(
    lonely: World, broker: OneBroker
) -> None:
    world = lonely
    source = await world.add_source()
    await broker.stop()
    body = event()
    await world.put(source, body)
    process = world.process(delivery_timeout_seconds=1.0)
    assert await process.drain() == 0
    assert await world.notes() == []
    assert [row["code"] for row in await world.waiting()] == [None]
    await broker.start()
    await eventually(emptied(world, process), deadline=60)
    assert await world.ids_in("customer") == [id_of(body)]


async def test_a_broker_that_freezes_costs_nothing_but_time(
    lonely: World, broker: OneBroker
) -> None:
    world = lonely
    source = await world.add_source()
    process = world.process(delivery_timeout_seconds=1.0)
    await world.put(source, event())
    assert await process.drain() == 1
    bodies = [event(n=number) for number in range(10)]
    await world.put(source, *bodies)
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        await process.forwarder.run_once()
        assert len(await world.queued()) == 10
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    await eventually(emptied(world, process), deadline=60)
    await assert_nothing_was_counted(world)
    arrived = (await world.ids_in("customer", at_least=11))[1:]
    # What was on the wire when it froze may come as well, before the repeats.
    assert arrived[-10:] == ids_of(bodies)
    assert not process.kafka.needs_rebuild


@pytest_asyncio.fixture(scope="module")
async def cluster(
    tmp_path_factory: pytest.TempPathFactory, apache_kafka: bool
) -> AsyncIterator[ApacheKafka | None]:
    """Three brokers; a topic of which one replica is missing can be made to take nothing."""
    if not apache_kafka:
        yield None
        return
    async with ApacheKafka(tmp_path_factory.mktemp("cluster"), brokers=3) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def of_three(
    database: Database, cluster: ApacheKafka | None, topic_prefix: str, needs_apache: None
) -> AsyncIterator[tuple[World, ApacheKafka]]:
    assert cluster is not None
    world = World(database, cluster.bootstrap_servers, topic_prefix)
    yield world, cluster
    await world.close()


async def _make(world: World, name: str, **options: object) -> None:
    wanted = NewTopic(world.prefix + name, **options)  # type: ignore[arg-type]
    (future,) = world.reader._admin.create_topics([wanted]).values()
    await asyncio.to_thread(future.result)


async def test_partitions_without_a_leader_are_put_aside_and_the_others_go_on(
    of_three: tuple[World, ApacheKafka],
) -> None:
    world, cluster = of_three
    await _make(world, "customer", num_partitions=3, replication_factor=1)
    source = await world.add_source()
    process = world.process(delivery_timeout_seconds=2.0)
    first = [event(object_id=f"cus_{number}") for number in range(30)]
    await world.put(source, *first)
    assert await process.drain() == 30
    placed = await world.fetch("SELECT event_id, partition FROM relay.deliveries")
    partition_of = {row["event_id"]: row["partition"] for row in placed}
    leaders = await asyncio.to_thread(_leaders, world, "customer")
    broker = 2
    lost = {partition for partition, leader in leaders.items() if leader == broker}
    assert 0 < len(lost) < 3

    await asyncio.to_thread(cluster.kill_broker, broker)
    try:
        await eventually(lambda: _leaderless(world, lost), deadline=60)
        for rounds in range(3):
            more = [event(object_id=f"cus_{number}") for number in range(30)]
            await world.put(source, *more)
            await process.drain()
            states = await world.states()
            reached = {n for n, body in enumerate(more) if states[id_of(body)] == "delivered"}
            expected = {n for n, body in enumerate(first) if partition_of[id_of(body)] not in lost}
            assert reached == expected, f"round {rounds}"
        assert not process.kafka.is_down
    finally:
        await asyncio.to_thread(cluster.start_broker, broker)
    await eventually(emptied(world, process), deadline=60)
    await assert_nothing_was_counted(world)


def _leaders(world: World, name: str) -> dict[int, int]:
    topic = world.prefix + name
    found = world.reader._admin.list_topics(timeout=10).topics[topic].partitions
    return {number: each.leader for number, each in found.items()}


async def _leaderless(world: World, partitions: set[int]) -> bool:
    leaders = await asyncio.to_thread(_leaders, world, "customer")
    return all(leaders[partition] == -1 for partition in partitions)


async def test_a_topic_that_was_deleted_and_made_again_is_found_by_a_new_producer(
    of_three: tuple[World, ApacheKafka],
) -> None:
    """librdkafka keeps the leaders of before, since theirs were later epochs, and asks for ever."""
    world, cluster = of_three
    for name in ("customer", "price"):
        await _make(world, name, num_partitions=6, replication_factor=3)
    source = await world.add_source(resources=("customer", "price"))
    process = world.process(delivery_timeout_seconds=2.0)

    async def put_some() -> None:
        more = [event(object_id=f"cus_{number}") for number in range(30)]
        await world.put(source, *more, event("price.created", "price_1"))

    await put_some()
    assert await process.drain() == 31
    for broker in range(3):  # each is followed as leader by another, in a later epoch
        await asyncio.to_thread(cluster.stop_broker, broker)
        await asyncio.to_thread(cluster.start_broker, broker)
    await put_some()
    await eventually(emptied(world, process), deadline=60)

    known = await asyncio.to_thread(_leaders, world, "customer")
    (deleted,) = world.reader._admin.delete_topics([world.prefix + "customer"]).values()
    await asyncio.to_thread(deleted.result)

    async def is_gone() -> bool:
        found = await asyncio.to_thread(world.reader._admin.list_topics, timeout=10)
        return world.prefix + "customer" not in found.topics

    await eventually(is_gone, deadline=30)
    others = {number: [(leader + 1) % 3, (leader + 2) % 3] for number, leader in known.items()}
    wanted = [others[number] for number in sorted(others)]
    await _make(world, "customer", num_partitions=6, replica_assignment=wanted)
    before = process.kafka.rebuilds
    await put_some()

    async def all_arrive() -> bool:
        # Others that are delivered meanwhile show that Kafka is not away.
        await world.put(source, event("price.created", "price_1"))
        return await emptied(world, process)()

    await eventually(all_arrive, deadline=60)
    assert process.kafka.rebuilds > before
    await assert_nothing_was_counted(world)


async def test_a_topic_that_wants_more_replicas_than_there_are_waits(
    of_three: tuple[World, ApacheKafka],
) -> None:
    world, cluster = of_three
    strict = {"min.insync.replicas": "3"}
    await _make(world, "customer", num_partitions=1, replication_factor=3, config=strict)
    await _make(world, "price", num_partitions=1, replication_factor=3)
    source = await world.add_source(resources=("customer", "price"))
    process = world.process(delivery_timeout_seconds=2.0)
    await asyncio.to_thread(cluster.kill_broker, 2)
    try:
        waits, arrives = event(), event("price.created", "price_1")
        await world.put(source, waits, arrives)

        async def delivered() -> bool:
            await world.make_due()
            await process.drain()
            return (await world.states())[id_of(arrives)] == "delivered"

        await eventually(delivered, deadline=60)
        assert (await world.states())[id_of(waits)] == "pending"
        (row,) = await world.waiting()
        assert row["attempts"] == 0
    finally:
        await asyncio.to_thread(cluster.start_broker, 2)
    await eventually(emptied(world, process), deadline=60)
    await assert_nothing_was_counted(world)


async def test_every_broker_is_restarted_in_turn_under_load(
    of_three: tuple[World, ApacheKafka],
) -> None:
    world, cluster = of_three
    source = await world.add_source()
    process = world.process(delivery_timeout_seconds=5.0, batch_rows=50)
    bodies = [event(object_id=f"cus_{number % 10}", n=number) for number in range(900)]
    restarted = asyncio.Event()

    async def restart_all() -> None:
        for broker in range(3):
            await asyncio.to_thread(cluster.stop_broker, broker)
            await asyncio.to_thread(cluster.start_broker, broker)
        restarted.set()

    async def put_all() -> None:
        for start in range(0, len(bodies), 30):
            await world.put(source, *bodies[start : start + 30])
            await process.forwarder.run_once()

    await asyncio.gather(restart_all(), put_all())
    await eventually(emptied(world, process), deadline=90)
    await assert_nothing_was_counted(world)
    arrived = await world.ids_in("customer", at_least=900)
    for key in range(10):
        expected = ids_of(bodies)[key::10]
        mine = [each for each in arrived if each in set(expected)]
        assert list(dict.fromkeys(reversed(mine))) == expected[::-1]
