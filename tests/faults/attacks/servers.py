"""PostgreSQL and Kafka, as they fail."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import suppress

import asyncpg
from confluent_kafka import KafkaException

from tests.faults.attacks.common import NotHereError
from tests.faults.load import make_event
from tests.faults.servers import CONNECTIONS
from tests.faults.world import AWAY, PREFIX, World
from tests.support.processes import eventually

_BROKERS = 3
_LIMIT_BYTES = 100_000


async def postgres_crash(world: World, rng: random.Random) -> None:
    """`pg_ctl stop -m immediate`, and started again."""
    await world.postgres.crash()
    try:
        await asyncio.sleep(rng.uniform(1.0, 5.0))
    finally:
        await world.postgres.recover()
        world.recoveries.append(("database back", time.time()))


async def postgres_failover(world: World, rng: random.Random) -> None:
    """The primary crashes, its synchronous standby takes over, and another one is made."""
    await world.postgres.fail_over()
    world.recoveries.append(("database failed over", time.time()))
    await asyncio.sleep(rng.uniform(1.0, 3.0))
    await world.postgres.follow()
    world.recoveries.append(("standby back", time.time()))


async def postgres_no_connections(world: World, rng: random.Random) -> None:
    """Somebody else takes every connection that there is."""
    taken: list[asyncpg.Connection] = []
    try:
        for _ in range(CONNECTIONS):
            try:
                taken.append(await world.postgres.connect())
            except AWAY:
                break
        with suppress(*AWAY):
            await taken[0].execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename LIKE 'relay_test%'"
            )
        for _ in range(CONNECTIONS):
            try:
                taken.append(await world.postgres.connect())
            except AWAY:
                break
        await asyncio.sleep(rng.uniform(3.0, 6.0))
    finally:
        for pg in taken:
            pg.terminate()
        world.recoveries.append(("connections free", time.time()))


async def postgres_disk_full(world: World, rng: random.Random) -> None:
    """No byte is left: PostgreSQL stops, and is started again when there is room."""
    if not world.postgres.has_disks:
        raise NotHereError("a small file system cannot be mounted")
    await asyncio.to_thread(world.postgres.fill_disk)
    try:
        await asyncio.sleep(rng.uniform(4.0, 8.0))
    finally:
        world.postgres.free_disk()
        if not world.postgres.is_running:
            await asyncio.to_thread(world.postgres.server.stop)
            await world.postgres.recover()
        world.recoveries.append(("disk has room", time.time()))


async def long_transaction(world: World, rng: random.Random) -> None:
    """An old snapshot keeps every dead row of the queue from being vacuumed."""
    with suppress(*AWAY):
        pg = await world.postgres.connect()
        try:
            await pg.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM relay.queue")
            await pg.execute("SELECT pg_current_xact_id()")
            await asyncio.sleep(20 + 100 * world.lane.scale)
        finally:
            pg.terminate()


async def migrate_under_load(world: World, rng: random.Random) -> None:
    """One revision down and up again, while everything runs."""
    await world.relay("migrate", "--to", world.previous_revision, "--yes")
    await asyncio.sleep(2.0)
    await world.relay("migrate")


async def kill_broker(world: World, rng: random.Random) -> None:
    broker = rng.randrange(_BROKERS)
    await asyncio.to_thread(world.kafka.cluster.kill_broker, broker)
    try:
        await asyncio.sleep(rng.uniform(4.0, 8.0))
    finally:
        await asyncio.to_thread(world.kafka.cluster.start_broker, broker)


async def freeze_broker(world: World, rng: random.Random) -> None:
    """For longer than a record is waited for."""
    pid = world.kafka.cluster.pid(rng.randrange(_BROKERS))
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(4.0 + 16.0 * world.lane.scale)
    finally:
        os.kill(pid, signal.SIGCONT)


async def all_brokers_away(world: World, rng: random.Random) -> None:
    for broker in range(_BROKERS):
        await asyncio.to_thread(world.kafka.cluster.kill_broker, broker)
    try:
        await asyncio.sleep(5.0 + 50 * world.lane.scale)
    finally:
        await asyncio.to_thread(world.kafka.cluster.start_all)
        world.recoveries.append(("brokers back", time.time()))


async def restart_brokers(world: World, rng: random.Random) -> None:
    """One after the other, in order, as for a new version of Kafka."""
    for broker in rng.sample(range(_BROKERS), _BROKERS):
        await asyncio.to_thread(world.kafka.cluster.stop_broker, broker)
        await asyncio.to_thread(world.kafka.cluster.start_broker, broker)


async def topic_deleted(world: World, rng: random.Random) -> None:
    """What was in it is gone; it is made anew, by relay itself, and goes on."""
    topic = f"{PREFIX}acme-unknown"
    with suppress(KafkaException):
        await world.kafka.delete_topic(topic)
    await asyncio.sleep(1.0)

    await eventually(lambda: asyncio.to_thread(world.kafka.has_topic, topic), deadline=90)
    world.deleted_topics[topic] = time.time()


async def topic_limit(world: World, rng: random.Random) -> None:
    """A topic takes only small records for a while: larger ones become dead letters, others go."""
    topic = f"{PREFIX}side-customer"
    first = rng.randrange(10**6)
    await world.side.post(make_event("customer.updated", "cus_small", first, name="small"))
    await eventually(lambda: asyncio.to_thread(world.kafka.has_topic, topic), deadline=90)
    await world.kafka.limit_topic(topic, _LIMIT_BYTES)
    try:
        noise = rng.randbytes(2 * _LIMIT_BYTES).hex()
        large = make_event("customer.updated", "cus_large", first, name="large", description=noise)
        world.expected_dead[large.event_id] = "too_large"
        await world.side.post(large)
        await world.side.post(make_event("customer.updated", "cus_small", first + 1, name="small"))
        await asyncio.sleep(5.0)
        await eventually(lambda: world.is_settled(large.event_id), deadline=90)
    finally:
        await world.kafka.limit_topic(topic, None)


async def authorization_refused(world: World, rng: random.Random) -> None:
    """relay may not write to a topic; what was refused goes on by itself when it may again."""
    topic = f"{PREFIX}acme-charge"
    await world.kafka.forbid(topic)
    try:
        await asyncio.sleep(5.0 + 25 * world.lane.scale)
    finally:
        await world.kafka.allow(topic)


ATTACKS = {
    each.__name__: each
    for each in (
        postgres_crash,
        postgres_failover,
        postgres_no_connections,
        postgres_disk_full,
        long_transaction,
        migrate_under_load,
        kill_broker,
        freeze_broker,
        all_brokers_away,
        restart_brokers,
        topic_deleted,
        topic_limit,
        authorization_refused,
    )
}
