"""Real processes, hot objects, SIGKILL at random moments: nothing lost, nothing out of order.

Two receivers and three forwarders share a PostgreSQL and a broker. Clients post 20,000 signed
events over keep-alive connections while forwarders and receivers are killed and replaced: at
random moments and at the worst ones, which are those before a COMMIT.
Afterwards `checker` judges what PostgreSQL and Kafka hold, read with their plain drivers.

RELAY_TEST_SEED repeats a run's events and the counts at which it killed; the processes and the
clock stay as random as they are.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from relay.dev import samples
from relay.store.sealing import new_key
from tests.acceptance import checker, evidence
from tests.acceptance.checker import Facts, Faults
from tests.acceptance.fleet import Serving, create_source, environment
from tests.acceptance.sender import Event, Sender, Webhook
from tests.support.processes import eventually
from tests.support.topics import make_topics

pytestmark = pytest.mark.slow

EVENTS = 20_000
HOT_OBJECTS = 50
CONNECTIONS = 32
COUNTS = {"receiver": 2, "forwarder": 3}
# Whom to kill while the events come in, and which table keeps the others of its role from a COMMIT
# in that moment: without one it is any moment.
KILLS = [
    ("forwarder", None),
    ("forwarder", None),
    ("forwarder", None),
    ("forwarder", "relay.receipt"),
    ("forwarder", "relay.receipt"),
    ("forwarder", "relay.receipt"),
    ("receiver", None),
    ("receiver", "relay.inbox"),
]
FORWARDER_KILLS = 1 + sum(role == "forwarder" for role, _ in KILLS)
SECRET = "whsec_" + "c" * 32

# Shorter than the defaults by a factor, and in the same order: what a killed process had on its
# way is waited for 6 s instead of 15. Small batches, because the rows of a lost one go singly.
QUICK = {
    "RELAY_DELIVERY_TIMEOUT_SECONDS": "4",
    "RELAY_FENCE_MARGIN_SECONDS": "2",
    "RELAY_BATCH_TIMEOUT_SECONDS": "8",
    "RELAY_FROZEN_AFTER_SECONDS": "20",
    "RELAY_BATCH_ROWS": "100",
}
# Types of a few objects with bodies of 1 to 5 KB; the last two go to the default topic.
TYPES = {
    "cus": ["customer.created", "customer.updated", "customer.deleted"],
    "txi": ["customer.tax_id.created", "customer.tax_id.updated"],
    "card": ["customer.source.created", "customer.source.expiring"],
    "re": ["charge.refund.updated"],
    "dp": ["charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed"],
    "pi": ["payment_intent.created", "payment_intent.processing", "payment_intent.succeeded"],
    "prod": ["product.created", "product.updated"],
    "po": ["payout.created", "payout.paid"],
}
TOPICS = ("customer", "charge", "payment_intent", "unknown")


def make_events(rng: random.Random) -> list[Event]:
    """Nine of ten are of a hot object, the hottest much more often than the others."""
    prefixes = list(TYPES)
    hot = [(prefixes[n % len(prefixes)], f"hot{n}") for n in range(HOT_OBJECTS)]
    weights = [1 / (1 + n / 10) for n in range(HOT_OBJECTS)]
    events = []
    for number in range(EVENTS):
        if rng.random() < 0.9:
            prefix, name = rng.choices(hot, weights)[0]
        else:
            prefix, name = rng.choice(prefixes), f"cold{number}"
        sample = samples.sample(
            rng.choice(TYPES[prefix]),
            seed=number,
            event_id=f"evt_{number:06}",
            object_id=f"{prefix}_{name}",
        )
        key = f'{{"id":"{prefix}_{name}"}}'
        events.append(Event(sample.event_id, key.encode(), sample.body))
    return events


class Fleet:
    """The processes of the deployment, one log file each."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self._environment = environment
        self._directory = directory
        self.running: dict[str, list[Serving]] = {"receiver": [], "forwarder": []}
        self.all: list[Serving] = []

    async def kill_one(self, role: str, rng: random.Random) -> None:
        """SIGKILL to any of the role that is at work; `replace` starts another."""
        await eventually(lambda: self.at_work(role), deadline=300)
        victim = rng.choice(self.at_work(role))
        self.running[role].remove(victim)
        await victim.kill()

    def replace(self) -> None:
        """Start as many as are missing."""
        for role, count in COUNTS.items():
            for _ in range(count - len(self.running[role])):
                log = self._directory / f"{len(self.all)}-{role}.log"
                process = Serving(role, self._environment, log)
                self.all.append(process)
                self.running[role].append(process)

    async def ready(self) -> None:
        """Wait until all of them are."""
        await asyncio.gather(*(each.ready() for role in COUNTS for each in self.running[role]))

    def at_work(self, role: str) -> list[Serving]:
        return [each for each in self.running[role] if each.lines("app.started")]

    def ports(self) -> list[int]:
        """Where receivers listen."""
        return [each.port for each in self.at_work("receiver")]

    async def stop(self) -> list[int | None]:
        """SIGTERM to all at once; their exit statuses."""
        remaining = [each for role in self.running.values() for each in role]
        self.running = {"receiver": [], "forwarder": []}
        return list(await asyncio.gather(*(each.stop() for each in remaining)))


class FaultWatch:
    """Writes down, while it happens, which events may be repeated and why.

    A note whose backend is gone belongs to a batch that was lost; it stays for longer than this
    looks away. A row with an error is one that Kafka did not acknowledge.
    """

    def __init__(self, pg: asyncpg.Connection) -> None:
        self._pg = pg
        self._looking = asyncio.Lock()  # a connection does one thing at a time
        self.lost: set[str] = set()
        self.processes: set[str] = set()
        self.put_aside: set[str] = set()

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(0.25)

    async def look(self) -> None:
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        lost = await self._pg.fetch(
            """
            SELECT n.process_id, i.event_id FROM relay.batch_note n
            JOIN relay.queue q ON q.number = ANY (n.numbers)
            JOIN relay.inbox i ON i.id = q.inbox_id AND i.received_at = q.received_at
            WHERE NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = n.backend_pid)
            """
        )
        self.lost |= {row["event_id"] for row in lost}
        self.processes |= {str(row["process_id"]) for row in lost}
        put_aside = await self._pg.fetch(
            """
            SELECT i.event_id FROM relay.queue q
            JOIN relay.inbox i ON i.id = q.inbox_id AND i.received_at = q.received_at
            WHERE q.visible_at IS NOT NULL AND q.last_error_code IS NOT NULL
            """
        )
        self.put_aside |= {row["event_id"] for row in put_aside}

    def faults(self, events: list[Event]) -> Faults:
        keys = {event.key for event in events if event.event_id in self.put_aside}
        return Faults(frozenset(self.lost), frozenset(keys))


@pytest.fixture
async def pg(direct_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(direct_url)
    yield connection
    await connection.close()


@asynccontextmanager
async def watching(direct_url: str) -> AsyncIterator[FaultWatch]:
    connection = await asyncpg.connect(direct_url)
    watch = FaultWatch(connection)
    looking = asyncio.create_task(watch.run())
    try:
        yield watch
        assert not looking.done(), looking.exception()
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await connection.close()


async def kill_on_the_way(
    fleet: Fleet, sender: Sender, rng: random.Random, pg: asyncpg.Connection
) -> None:
    """Kill at random counts of answered events, and start others."""
    plan = rng.sample(KILLS, len(KILLS))
    counts = sorted(rng.sample(range(EVENTS // 20, EVENTS * 19 // 20), len(plan)))
    for count, (role, table) in zip(counts, plan, strict=True):
        await eventually(lambda count=count: len(sender.posted) >= count, deadline=300)
        print(f"SIGKILL to a {role} at {len(sender.posted)} events", "" if table is None else table)
        if table is None:
            await fleet.kill_one(role, rng)
        else:
            async with held_up(pg, table, sender):
                await fleet.kill_one(role, rng)
        fleet.replace()


@asynccontextmanager
async def held_up(pg: asyncpg.Connection, table: str, sender: Sender) -> AsyncIterator[None]:
    """Meanwhile nobody can write to a table, and several transactions wait for it already.

    Who settles has its records in Kafka by then, and who stores has requests to answer.
    """
    async with pg.transaction():
        await pg.execute(f"LOCK TABLE {table} IN SHARE MODE")

        async def are_waiting() -> bool:
            if len(sender.posted) == EVENTS:
                return True  # there may be nothing left that could wait
            query = """
                SELECT count(*) >= 2 FROM pg_locks
                WHERE relation = $1::text::regclass AND NOT granted
            """
            return bool(await pg.fetchval(query, table))

        await eventually(are_waiting, deadline=60)
        yield


async def test_nothing_is_lost_or_out_of_order(
    database_url: str,
    direct_url: str,
    kafka: str,
    apache_kafka: bool,
    topic_prefix: str,
    tmp_path: Path,
    pg: asyncpg.Connection,
) -> None:
    seed = int(os.environ.get("RELAY_TEST_SEED") or random.SystemRandom().randrange(10**6))
    rng = random.Random(seed)
    print(f"RELAY_TEST_SEED={seed}")
    settings = environment(
        RELAY_DATABASE_URL=database_url,
        RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka,
        RELAY_ENCRYPTION_KEYS=new_key(),
        **QUICK,
    )
    if not apache_kafka:
        await make_topics(kafka, [topic_prefix + name for name in TOPICS])
    flags = ("--signing-secret", SECRET, "--topic-prefix", topic_prefix)
    source = await create_source("acme", *flags, environment=settings)
    webhook = Webhook(f"/webhooks/{source['id']}?api_key={source['api_key']}", SECRET)
    events = make_events(rng)
    fleet = Fleet(settings, tmp_path)
    sender = Sender(webhook, fleet.ports, rng)
    try:
        fleet.replace()
        await fleet.ready()
        async with watching(direct_url) as watch:
            began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                group.create_task(sender.run(events, CONNECTIONS))
                group.create_task(kill_on_the_way(fleet, sender, rng, pg))
            posted = time.monotonic()
            # One more while what the others left is tried again, row by row.
            await fleet.kill_one("forwarder", rng)
            fleet.replace()
            await fleet.ready()
            await eventually(lambda: _is_finished(pg), deadline=300)
            await watch.look()
        finished = time.monotonic()
    finally:
        statuses = await fleet.stop()
    facts = Facts(
        posted=sender.posted,
        inbox=await evidence.read_inbox(pg),
        receipts=await evidence.read_receipts(pg),
        records=await evidence.read_records(kafka, topic_prefix),
        faults=watch.faults(events),
    )
    print(
        f"answers {dict(sender.answers)}; posted in {posted - began:.1f} s, settled"
        f" {finished - posted:.1f} s later; {len(facts.records)} records,"
        f" {checker.repeats(facts)} of them repeats; {len(watch.lost)} events in batches that"
        f" {len(watch.processes)} killed processes lost, {len(watch.put_aside)} put aside"
    )
    assert statuses == [0] * sum(COUNTS.values())
    assert len(sender.posted) == EVENTS
    assert checker.check(facts)[:20] == []
    assert len(facts.records) >= EVENTS
    assert 0 < len(watch.processes) <= FORWARDER_KILLS
    assert await pg.fetchval("SELECT count(*) FROM relay.queue") == 0
    assert await pg.fetchval("SELECT count(*) FROM relay.batch_note") == 0
    assert await pg.fetchval("SELECT count(*) FROM relay.dead_letter") == 0


async def _is_finished(pg: asyncpg.Connection) -> bool:
    return not await pg.fetchval(
        "SELECT EXISTS (SELECT FROM relay.queue) OR EXISTS (SELECT FROM relay.batch_note)"
    )
