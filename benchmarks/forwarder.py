"""Events per second from a full inbox to acknowledged records, one forwarder process.

And the CPU that an event costs the forwarder and PostgreSQL.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
from confluent_kafka import Producer

from benchmarks import cpu, figures, peers, profiles
from benchmarks.cpu import memory_of
from benchmarks.load import SECRET, event_bodies
from benchmarks.parts import (
    POSTGRES_SETTINGS,
    Options,
    Relay,
    broker,
    free_port,
    new_database,
    new_relay,
    new_topic,
    process,
    records_in,
    wait_for_port,
)
from relay.core.event import peek
from relay.core.record import Record
from relay.core.source import SourceConfig
from relay.core.transform import Deliver, StoredEvent, transform
from relay.dev.postgres import EmbeddedPostgres
from relay.kafka import config
from relay.store import inbox, sources
from relay.store.engine import Database

OBJECTS = 5_000
_BATCH = 500
_run = count()

# How an event gets to a peer: $1 its id, $2 the key of its record, $3 its bytes.
_STORE = {
    "Debezium": "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)"
    " VALUES ('event', $2, $1, $3)",
    "PgQueuer": "INSERT INTO pgqueuer (entrypoint, priority, status, payload, headers)"
    " VALUES ('event', 0, 'queued', $3, jsonb_build_object('id', $1::text, 'key', $2::text))",
    "River": "INSERT INTO river_job (kind, max_attempts, args) VALUES ('event', 25,"
    " jsonb_build_object('id', $1::text, 'key', $2::text, 'payload', convert_from($3, 'UTF8')))",
    "procrastinate": "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
    " VALUES ('events', 'event', jsonb_build_object('event_id', $1::text, 'key', $2::text,"
    " 'payload', convert_from($3, 'UTF8')))",
    "one row at a time": "INSERT INTO naive_inbox (event_id, event_type, body)"
    " SELECT $1, 'customer.updated', $3 WHERE $2::text IS NOT NULL",
}
_EVENTS = {
    "Debezium": 60_000,
    "PgQueuer": 30_000,
    "River": 30_000,
    "procrastinate": 1_500,
    "one row at a time": 1_500,
}


class Bench:
    def __init__(self, server: EmbeddedPostgres, kafka: str, options: Options) -> None:
        self.server = server
        self.kafka = kafka
        self.options = options
        self.process: dict[str, list[float]] = defaultdict(list)
        """µs of CPU of the forwarder per event, the client of Kafka included."""
        self.postgres: dict[str, list[float]] = defaultdict(list)
        """The same of PostgreSQL."""
        self.both: dict[str, list[float]] = defaultdict(list)

    async def relay(self) -> float:
        relay = await new_relay(self.server.dsn, "bench_relay", SECRET)
        cost = await forward(self.server, self.kafka, relay, self.options, 40_000)
        self._count("relay", cost.process, cost.postgres)
        return cost.rate

    async def peer(self, name: str, command: list[str]) -> float:
        events = self.options.events(_EVENTS[name])
        run = next(_run)
        url = await new_database(self.server.dsn, "bench_peer")
        await _output(*command, "prepare", url)
        pg = await asyncpg.connect(url)
        try:
            rows = [
                (f"evt_p{run}_{number}", f'{{"id":"cus_{number % OBJECTS}"}}', body)
                for number, body in enumerate(event_bodies(events, OBJECTS, f"p{run}"))
            ]
            for start in range(0, events, _BATCH):
                await pg.executemany(_STORE[name], rows[start : start + _BATCH])
            await pg.execute("VACUUM ANALYZE")
            topic = new_topic(self.kafka, f"peer_{run}")
            before = cpu.of_family(self.server.pid)
            told = await _output(*command, "forward", url, self.kafka, topic, str(events))
            rate, process = map(float, told.split())
            self._count(name, process, (cpu.of_family(self.server.pid) - before) / events * 1e6)
            assert records_in(self.kafka, topic) >= events
            return rate
        finally:
            await pg.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE database = current_database()"
            )
            await pg.close()

    async def librdkafka(self) -> float:
        """The records ready in memory, with the settings and through the binding of the product."""
        events = self.options.events(60_000)
        topic = new_topic(self.kafka, f"bare_{next(_run)}")
        records = [_record(body) for body in event_bodies(events, OBJECTS, "k")]
        settings = config.producer(config.connection(self.kafka, None), 60.0)
        before = time.process_time()
        rate = await asyncio.to_thread(_produce, Producer(settings), topic, records)
        self.process["bare librdkafka"].append((time.process_time() - before) / events * 1e6)
        assert records_in(self.kafka, topic) == events
        return rate

    def _count(self, name: str, process: float, postgres: float) -> None:
        self.process[name].append(process)
        self.postgres[name].append(postgres)
        self.both[name].append(process + postgres)


async def run(options: Options) -> None:
    settings = {**POSTGRES_SETTINGS, "wal_level": "logical"}  # what Debezium reads
    with (
        tempfile.TemporaryDirectory(prefix="relay-bench-") as directory,
        EmbeddedPostgres(Path(directory) / "pg", settings=settings) as server,
    ):
        async with broker(Path(directory), options) as kafka:
            bench = Bench(server, kafka, options)
            contenders: dict[str, figures.Run] = {"relay": bench.relay}
            built = peers.commands(
                {
                    "Debezium": peers.debezium,
                    "PgQueuer": partial(peers.python, "pgqueuer_forwarder"),
                    "River": partial(peers.go, "river"),
                    "procrastinate": partial(peers.python, "procrastinate_forwarder"),
                }
            )
            built["one row at a time"] = [sys.executable, "-m", "benchmarks.naive_forwarder"]
            for name, command in built.items():
                contenders[name] = partial(bench.peer, name, command)
            contenders["bare librdkafka"] = bench.librdkafka
            rates = await figures.interleave(contenders, options.repetitions)
    title = "Forwarder: 3 KB events, order and receipts on, one process"
    figures.report(title, rates, "relay")
    title = "Forwarder, process: its CPU per event, the client of Kafka included"
    figures.report(title, bench.process, "relay", "µs")
    figures.report("Forwarder, PostgreSQL: its CPU per event", bench.postgres, "relay", "µs")
    figures.report("Forwarder, both: CPU per event", bench.both, "relay", "µs")


class Cost(NamedTuple):
    """Of forwarding some events."""

    rate: float
    """Events per second."""
    process: float
    """µs of CPU of the forwarders per event, librdkafka included."""
    postgres: float
    """µs of CPU of all of PostgreSQL per event."""
    peak: float
    """MB of memory that the largest forwarder had at most."""


async def forward(
    server: EmbeddedPostgres,
    kafka: str,
    relay: Relay,
    options: Options,
    events: int,
    *,
    forwarders: int = 1,
) -> Cost:
    """Put so many events into the inbox while forwarding pauses, then forward them."""
    events = options.events(events)
    database = Database(relay.url)
    watch = await asyncpg.connect(relay.url)
    try:
        await _pause(database, relay, paused=True)
        await _fill(database, relay, event_bodies(events, OBJECTS, f"f{next(_run)}"))
        since = await watch.fetchval("SELECT now()")
        with ExitStack() as stack:
            pids = []
            for _ in range(forwarders):
                environment, admin = forwarder_environment(relay, kafka)
                pids.append(stack.enter_context(process(FORWARDER, environment)).pid)
                await wait_for_port(admin)
            stack.enter_context(profiles.watch(pids[0], "forwarder", wanted=options.profile))
            before = sum(map(cpu.of_process, pids)), cpu.of_family(server.pid)
            await _pause(database, relay, paused=False)
            await _drained(watch)
            after = sum(map(cpu.of_process, pids)), cpu.of_family(server.pid)
            peak = max(map(memory_of, pids))
        rate = await _settled_per_second(watch, since, events // 5)
        process_cost, postgres_cost = (
            (used - at_first) / events * 1e6 for used, at_first in zip(after, before, strict=True)
        )
        return Cost(rate, process_cost, postgres_cost, peak)
    finally:
        await watch.close()
        await database.close()


FORWARDER = [sys.executable, "-m", "relay", "serve", "--roles", "forwarder"]


def forwarder_environment(relay: Relay, kafka: str) -> tuple[dict[str, str], int]:
    """What a forwarder is told, and the port that it opens when it has started."""
    admin = free_port()
    return {
        "RELAY_DATABASE_URL": relay.url,
        "RELAY_ENCRYPTION_KEYS": relay.seal_key,
        "RELAY_KAFKA_BOOTSTRAP_SERVERS": kafka,
        "RELAY_ADMIN_BIND": f"127.0.0.1:{admin}",
        "RELAY_LOG_LEVEL": "error",
    }, admin


async def _pause(database: Database, relay: Relay, *, paused: bool) -> None:
    change = sources.pause if paused else sources.resume
    async with database.begin() as connection:
        await change(connection, relay.source.config.source_id)


async def _fill(database: Database, relay: Relay, bodies: Sequence[bytes]) -> None:
    """Put events into the inbox and the queue, by the door of the receiver."""
    source_id = relay.source.config.source_id
    for start in range(0, len(bodies), _BATCH):
        events = [
            inbox.new_event(
                peek(body), body, source_id=source_id, origin="webhook", signature_header=None
            )
            for body in bodies[start : start + _BATCH]
        ]
        async with database.driver() as pg, pg.transaction():
            await inbox.put(pg, events)
    async with database.driver() as pg:
        await pg.execute("VACUUM ANALYZE relay.queue")


async def _drained(watch: asyncpg.Connection) -> None:
    """Until the queue is empty; seldom asked, since the answer has to pass all dead rows."""
    while await watch.fetchval("SELECT EXISTS (SELECT FROM relay.queue)"):
        await asyncio.sleep(0.5)


async def _settled_per_second(watch: asyncpg.Connection, since: datetime, warm: int) -> float:
    """From the batch that settled the `warm`th event to the last, by the database's own clock."""
    row = await watch.fetchrow(
        """
        WITH settled AS (SELECT produced_at FROM relay.receipt WHERE produced_at > $1),
            begun AS (SELECT produced_at FROM settled ORDER BY produced_at OFFSET $2 LIMIT 1)
        SELECT count(*) AS events,
            extract(epoch FROM max(s.produced_at) - min(b.produced_at))::float8 AS seconds
        FROM settled s, begun b WHERE s.produced_at > b.produced_at
        """,
        since,
        warm,
    )
    return float(row["events"] / row["seconds"])


async def _output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0, command
    return output.decode()


def _record(body: bytes) -> Record:
    source = SourceConfig(source_id=1, public_id="src_1", name="bare", resources=("*",))
    peeked = peek(body)
    event = StoredEvent(
        inbox_id=1,
        event_id=peeked.event_id,
        event_type=peeked.event_type,
        object_type=peeked.object_type,
        object_id=peeked.object_id,
        account=None,
        livemode=True,
        api_version=peeked.api_version,
        created=peeked.created,
        origin="webhook",
        body=body,
    )
    outcome = transform(event, source)
    assert isinstance(outcome, Deliver)
    return outcome.records[0]


def _produce(producer: Producer, topic: str, records: Sequence[Record]) -> float:
    """Records per second, to the last report; the first thousand make the connections."""
    reports = 0

    def report(error: Any, _message: object) -> None:
        nonlocal reports
        assert error is None, error
        reports += 1

    def produce(some: Sequence[Record]) -> None:
        for number, record in enumerate(some):
            if number % _BATCH == 0:
                producer.poll(0)
            producer.produce(
                topic,
                value=record.value,
                key=record.key,
                headers=list(record.headers),
                on_delivery=report,
            )
        producer.flush()

    produce(records[:1000])
    start = time.perf_counter()
    produce(records[1000:])
    assert reports == len(records)
    return (reports - 1000) / (time.perf_counter() - start)
