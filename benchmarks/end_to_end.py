"""From the request to the acknowledged record: receiver, forwarder and PostgreSQL at once.

How many events a second they sustain, and how long a record takes at a rate far below that.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

import asyncpg
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from benchmarks import figures, naive_receiver
from benchmarks.forwarder import FORWARDER, forwarder_environment
from benchmarks.load import SECRET, event_bodies, post_all, post_at, request
from benchmarks.parts import (
    PARTITIONS,
    POSTGRES_SETTINGS,
    Options,
    broker,
    new_database,
    new_relay,
    new_topic,
    process,
    wait_for_port,
)
from benchmarks.receiver import CONNECTIONS, OBJECTS, listening, relay_receiver
from relay.dev.postgres import EmbeddedPostgres

SECONDS = 10
MOST = 12_000
"""Requests a second that are prepared."""
RATE = 500
"""Requests a second for the latency: far from what the machine can do."""
NAIVE_RATE = 50
_run = count()


class Chain(NamedTuple):
    """A receiver and a forwarder that run."""

    port: int
    path: str
    topic: str
    pg: asyncpg.Connection
    queued: str
    """How many events wait, in SQL."""


class Bench:
    def __init__(self, server: str, kafka: str, options: Options) -> None:
        self.server = server
        self.kafka = kafka
        self.seconds = max(3.0, SECONDS * options.scale)
        self.backlog: dict[str, list[float]] = defaultdict(list)
        """Seconds of work that were left when the load ended."""
        self.p50: dict[str, list[float]] = defaultdict(list)
        """Milliseconds from the moment a request was due until a consumer had its record."""

    @asynccontextmanager
    async def relay(self) -> AsyncIterator[Chain]:
        prefix = f"relay_{next(_run)}_"
        topic = new_topic(self.kafka, f"{prefix}customer")
        relay = await new_relay(self.server, "bench_relay", SECRET, topic_prefix=prefix)
        environment, admin = forwarder_environment(relay, self.kafka)
        pg = await asyncpg.connect(relay.url)
        try:
            async with relay_receiver(relay) as target:
                with process(FORWARDER, environment):
                    await wait_for_port(admin)
                    queued = "SELECT count(*) FROM relay.queue"
                    yield Chain(target.port, target.path, topic, pg, queued)
        finally:
            await pg.close()

    @asynccontextmanager
    async def naive(self) -> AsyncIterator[Chain]:
        topic = new_topic(self.kafka, f"naive_{next(_run)}")
        url = await new_database(self.server, "bench_naive")
        await naive_receiver.create(url)
        python = [sys.executable, "-m"]
        forward = ["benchmarks.naive_forwarder", "forward", url, self.kafka, topic, str(10**9)]
        pg = await asyncpg.connect(url)
        try:
            async with listening([*python, "benchmarks.naive_receiver", "PORT", url]) as target:
                with process([*python, *forward], {}):
                    queued = "SELECT count(*) FROM naive_inbox WHERE status = 'pending'"
                    yield Chain(target.port, target.path, topic, pg, queued)
        finally:
            await pg.close()

    async def sustained(self, name: str) -> float:
        """Events that were forwarded per second while all connections posted all the time."""
        async with getattr(self, name)() as chain:
            bodies = event_bodies(int(MOST * self.seconds), OBJECTS, f"e{next(_run)}")
            requests = [request(chain.path, body) for body in bodies]
            await post_all(chain.port, requests[:300], CONNECTIONS)
            start = time.perf_counter()
            limited = _until(start + self.seconds, requests[300:])
            accepted = await post_all(chain.port, limited, CONNECTIONS)
            seconds = time.perf_counter() - start
            waiting = await chain.pg.fetchval(chain.queued)
            rate = accepted - waiting / seconds
            self.backlog[name].append(waiting / rate)
            return rate

    async def latency(self, name: str, rate: float) -> float:
        async with getattr(self, name)() as chain:
            events = int(rate * self.seconds)
            requests = [request(chain.path, body) for body in event_bodies(events, OBJECTS, "l")]
            reading = asyncio.create_task(asyncio.to_thread(_read, self.kafka, chain.topic, events))
            due, _ = await post_at(chain.port, requests, CONNECTIONS, rate)
            arrived = await reading
            # Without the first fifth, in which connections and caches are made.
            took = [(arrived[number] - due[number]) * 1000 for number in range(events // 5, events)]
            cuts = statistics.quantiles(took, n=100)
            self.p50[name].append(cuts[49])
            return cuts[98]


async def run(options: Options) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="relay-bench-") as directory,
        EmbeddedPostgres(Path(directory) / "pg", settings=POSTGRES_SETTINGS) as server,
    ):
        async with broker(Path(directory), options) as kafka:
            bench = Bench(server.dsn, kafka, options)
            rates = await figures.interleave(
                {
                    "relay": lambda: bench.sustained("relay"),
                    "naive": lambda: bench.sustained("naive"),
                },
                options.repetitions,
            )
            p99 = await figures.interleave(
                {
                    "relay": lambda: bench.latency("relay", RATE),
                    "naive": lambda: bench.latency("naive", NAIVE_RATE),
                },
                options.repetitions,
                "ms",
            )
    title = f"End to end: {CONNECTIONS} connections, one receiver, one forwarder"
    figures.report(title, rates, "relay")
    title = "End to end, backlog: what was left when the load ended"
    figures.report(title, bench.backlog, "relay", "seconds of work")
    title = f"End to end, p50: request to record, {RATE}/s (naive: {NAIVE_RATE}/s)"
    figures.report(title, bench.p50, "relay", "ms")
    title = f"End to end, p99: request to record, {RATE}/s (naive: {NAIVE_RATE}/s)"
    figures.report(title, p99, "relay", "ms")


def _until(moment: float, requests: list[bytes]) -> Iterator[bytes]:
    for each in requests:
        if time.perf_counter() > moment:
            return
        yield each


def _read(kafka: str, topic: str, events: int) -> dict[int, float]:
    """When the record of each event, by its `number`, came to a consumer for the first time."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "benchmark"})
    consumer.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n in range(PARTITIONS)])
    arrived: dict[int, float] = {}
    patience = time.monotonic() + 120
    while len(arrived) < events:
        assert time.monotonic() < patience, f"{events - len(arrived)} records are missing"
        record = consumer.poll(0.1)
        if record is not None:
            now = time.time()
            assert record.error() is None, record.error()
            arrived.setdefault(json.loads(record.value())["number"], now)
    consumer.close()
    return arrived
