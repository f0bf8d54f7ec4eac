"""The parts under a benchmark: PostgreSQL, a broker, and servers in processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from relay.core.source import SourceConfig
from relay.dev.broker import EmbeddedBroker
from relay.dev.process import free_port
from relay.store import schema, sources
from relay.store.engine import Database
from relay.store.sealing import Seal, new_key
from relay.store.sources import Source

# What a production server would be given; durability is as PostgreSQL ships it.
POSTGRES_SETTINGS = {"max_connections": "200", "shared_buffers": "512MB", "max_wal_size": "4GB"}


@asynccontextmanager
async def broker(directory: Path) -> AsyncIterator[str]:
    """Bootstrap servers: of RELAY_BENCH_KAFKA when it is set, else of the embedded broker."""
    given = os.environ.get("RELAY_BENCH_KAFKA")
    if given:
        yield given
        return
    async with EmbeddedBroker(directory / "broker.log") as embedded:
        yield embedded.bootstrap_servers


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
    server: str, name: str, secret: str, stripe_key: str | None = None
) -> tuple[str, Source, str, str]:
    """A migrated database with one source; returns its URL, the source, its key and the seal's."""
    url = await new_database(server, name)
    await schema.migrate(url)
    seal_key = new_key()
    database = Database(url)
    try:
        async with database.begin() as connection:
            config = SourceConfig(source_id=0, public_id="", name="benchmark", resources=("*",))
            seal = Seal([seal_key])
            source, key = await sources.create(
                connection,
                config,
                sealed_secrets=[seal.seal(secret.encode())],
                sealed_stripe_key=None if stripe_key is None else seal.seal(stripe_key.encode()),
            )
    finally:
        await database.close()
    return url, source, key, seal_key


@contextmanager
def server_process(arguments: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A Python module as a process; ended by SIGTERM."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], env={**os.environ, **environment}
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


async def wait_for_port(port: int) -> None:
    """Until something listens there."""
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        await asyncio.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


__all__ = [
    "POSTGRES_SETTINGS",
    "broker",
    "free_port",
    "new_database",
    "new_relay",
    "server_process",
    "wait_for_port",
]
