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
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
from confluent_kafka import Producer

from benchmarks import cpu, figures, peers, profiles
from benchmarks.load import SECRET, event_bodies
from benchmarks.parts import (
    POSTGRES_SETTINGS,
    Options,
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
from relay.store.sources import Source

OBJECTS = 5_000
WARM = 0.2
"""The share of the events before the clock starts, so that compilers and caches are warm."""
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
    "PgQueuer": 15_000,
    "River": 15_000,
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
        events = self.options.events(40_000)
        url, source, _, seal_key = await new_relay(self.server.dsn, "bench_relay", SECRET)
        database = Database(url)
        watch = await asyncpg.connect(url)
        try:
            await pause(database, source, paused=True)
            await fill(database, source, event_bodies(events, OBJECTS, f"f{next(_run)}"))
            environment = forwarder_environment(url, seal_key, self.kafka)
            with process(FORWARDER, environment) as running:
                await wait_for_port(int(environment["RELAY_ADMIN_BIND"].rpartition(":")[2]))
                with profiles.watch(running.pid, "forwarder", wanted=self.options.profile):
                    before = cpu.of_process(running.pid), cpu.of_family(self.server.pid)
                    await pause(database, source, paused=False)
                    await drained(watch)
                    after = cpu.of_process(running.pid), cpu.of_family(self.server.pid)
            ours, postgres = (
                (used - at_first) / events * 1e6
                for used, at_first in zip(after, before, strict=True)
            )
            self._count("relay", ours, postgres)
            return await settled_per_second(watch, int(events * WARM))
        finally:
            await watch.close()
            await database.close()

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
        rate = await asyncio.to_thread(_produce, Producer(settings), topic, records)
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


FORWARDER = [sys.executable, "-m", "relay", "serve", "--roles", "forwarder"]


def forwarder_environment(url: str, seal_key: str, kafka: str) -> dict[str, str]:
    return {
        "RELAY_DATABASE_URL": url,
        "RELAY_ENCRYPTION_KEYS": seal_key,
        "RELAY_KAFKA_BOOTSTRAP_SERVERS": kafka,
        "RELAY_ADMIN_BIND": f"127.0.0.1:{free_port()}",
        "RELAY_LOG_LEVEL": "error",
    }


async def pause(database: Database, source: Source, *, paused: bool) -> None:
    """Stop or start forwarding."""
    async with database.begin() as connection:
        change = sources.pause if paused else sources.resume
        await change(connection, source.config.source_id)


async def fill(database: Database, source: Source, bodies: Sequence[bytes]) -> None:
    """Put events into the inbox and the queue, by the door of the receiver."""
    for start in range(0, len(bodies), _BATCH):
        events = [
            inbox.new_event(
                peek(body),
                body,
                source_id=source.config.source_id,
                origin="webhook",
                signature_header=None,
            )
            for body in bodies[start : start + _BATCH]
        ]
        async with database.driver() as pg, pg.transaction():
            await inbox.put(pg, events)
    async with database.driver() as pg:
        await pg.execute("VACUUM ANALYZE relay.queue")


async def drained(watch: asyncpg.Connection) -> None:
    """Until the queue is empty; seldom asked, since the answer has to pass all dead rows."""
    while await watch.fetchval("SELECT EXISTS (SELECT FROM relay.queue)"):
        await asyncio.sleep(0.5)


async def settled_per_second(watch: asyncpg.Connection, warm: int) -> float:
    """From the batch that settled the `warm`th event to the last, by the database's own clock."""
    row = await watch.fetchrow(
        """
        SELECT count(*) AS events, extract(epoch FROM max(produced_at) - start)::float8 AS seconds
        FROM relay.receipt, (
            SELECT produced_at AS start FROM relay.receipt ORDER BY produced_at OFFSET $1 LIMIT 1
        ) WHERE produced_at > start GROUP BY start
        """,
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
