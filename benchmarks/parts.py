"""The parts under a benchmark: PostgreSQL, a broker, and servers in processes of their own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks import figures
from relay.core.source import SourceConfig
from relay.dev.broker import EmbeddedBroker
from relay.dev.process import free_port
from relay.store import schema, sources
from relay.store.engine import Database
from relay.store.sealing import Seal, new_key
from relay.store.sources import Source
from tests.support.kafka import ApacheKafka

# What a production server would be given; durability is as PostgreSQL ships it.
POSTGRES_SETTINGS = {"max_connections": "200", "shared_buffers": "512MB", "max_wal_size": "4GB"}
# As Kafka's own start script has it; what the tests use is slower and smaller.
_JAVA = ("-Xms1g", "-Xmx1g", "-XX:+UseG1GC")
PARTITIONS = 6


class Options(NamedTuple):
    """What the command line says."""

    repetitions: int
    scale: float
    settled: int
    stored: int
    data: str | None
    embedded: bool
    profile: bool

    def events(self, count: int) -> int:
        """So many, or what the scale makes of them."""
        return max(500, int(count * self.scale))


def records_in(kafka: str, topic: str) -> int:
    """How many records there are, those sent twice included."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "benchmark"})
    try:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        return sum(consumer.get_watermark_offsets(each, timeout=10)[1] for each in partitions)
    finally:
        consumer.close()


@asynccontextmanager
async def broker(directory: Path, options: Options) -> AsyncIterator[str]:
    """Bootstrap servers of an Apache Kafka, or of the embedded broker where that is not to be had.

    Its log is written as Kafka writes it by default: `acks=all` means the page cache of all one.
    """
    missing = [name for name in ("java", "mvn") if shutil.which(name) is None]
    if missing and not options.embedded:
        figures.not_here("Apache Kafka", f"no {missing[0]}: the embedded broker in its place")
    if missing or options.embedded:
        async with EmbeddedBroker(directory / "broker.log") as embedded:
            yield embedded.bootstrap_servers
        return
    async with ApacheKafka(directory / "kafka", java=_JAVA) as apache:
        yield apache.bootstrap_servers


def new_topic(kafka: str, name: str) -> str:
    """A topic with as many partitions as the relay would give it; returns its name."""
    admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
    for made in admin.create_topics([NewTopic(name, PARTITIONS, 1)]).values():
        made.result()
    return name


class Relay(NamedTuple):
    """A database of the product, and what its processes and callers have to know."""

    url: str
    source: Source
    key: str
    """Of the webhook URL."""
    seal_key: str

    @property
    def path(self) -> str:
        """Where webhooks are posted."""
        return f"/webhooks/{self.source.config.public_id}?api_key={self.key}"


async def new_database(server: str, name: str) -> str:
    """An empty database; returns its URL."""
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


async def new_relay(
    server: str, name: str, secret: str, stripe_key: str | None = None, topic_prefix: str = ""
) -> Relay:
    """A migrated database with one source."""
    url = await new_database(server, name)
    await schema.migrate(url)
    seal_key = new_key()
    database = Database(url)
    try:
        async with database.begin() as connection:
            config = SourceConfig(
                source_id=0,
                public_id="",
                name="benchmark",
                resources=("*",),
                topic_prefix=topic_prefix,
            )
            seal = Seal([seal_key])
            source, key = await sources.create(
                connection,
                config,
                sealed_secrets=[seal.seal(secret.encode())],
                sealed_stripe_key=None if stripe_key is None else seal.seal(stripe_key.encode()),
            )
    finally:
        await database.close()
    return Relay(url, source, key, seal_key)


@contextmanager
def process(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A program; ended by SIGTERM."""
    running = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(timeout=60)


def server_process(
    arguments: list[str], environment: dict[str, str]
) -> AbstractContextManager[subprocess.Popen]:
    """A Python module as a process; ended by SIGTERM."""
    return process([sys.executable, "-m", *arguments], environment)


async def wait_for_port(port: int) -> None:
    """Until something listens there."""
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        await asyncio.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


__all__ = [
    "PARTITIONS",
    "POSTGRES_SETTINGS",
    "Options",
    "Relay",
    "broker",
    "free_port",
    "new_database",
    "new_relay",
    "new_topic",
    "process",
    "records_in",
    "server_process",
    "wait_for_port",
]
