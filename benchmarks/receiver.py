"""Acknowledged events per second, 64 connections, one receiver process."""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path

from benchmarks import figures
from benchmarks.load import SECRET, event_bodies, post_all, request
from benchmarks.parts import (
    POSTGRES_SETTINGS,
    free_port,
    new_database,
    new_relay,
    server_process,
    wait_for_port,
)
from relay.dev.postgres import EmbeddedPostgres

CONNECTIONS = 64
_run = count()


async def run(repetitions: int) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="relay-bench-") as directory,
        EmbeddedPostgres(Path(directory), settings=POSTGRES_SETTINGS) as server,
    ):

        async def relay() -> float:
            return await _relay(server.dsn, events=20_000)

        async def naive() -> float:
            return await _naive(server.dsn, events=3_000)

        contenders = {"relay": relay, "one ORM transaction per request": naive}
        result = await figures.interleave(contenders, repetitions)
    title = f"Receiver: {CONNECTIONS} connections, 3 KB events, one process"
    figures.report(title, result, ours="relay")


async def _relay(server: str, events: int) -> float:
    url, source, key, seal_key = await new_relay(server, "bench_relay", SECRET)
    port = free_port()
    environment = {
        "RELAY_DATABASE_URL": url,
        "RELAY_ENCRYPTION_KEYS": seal_key,
        "RELAY_BIND": f"127.0.0.1:{port}",
        "RELAY_ADMIN_BIND": f"127.0.0.1:{free_port()}",
        "RELAY_LOG_LEVEL": "error",
    }
    path = f"/webhooks/{source.config.public_id}?api_key={key}"
    with server_process(["relay", "serve", "--roles", "receiver"], environment):
        await wait_for_port(port)
        return await _post(port, path, events)


async def _naive(server: str, events: int) -> float:
    url = await new_database(server, "bench_naive")
    port = free_port()
    with server_process(["benchmarks.naive_receiver", str(port), url], {}):
        await wait_for_port(port)
        return await _post(port, "/webhooks", events)


async def _post(port: int, path: str, events: int) -> float:
    prefix = f"r{next(_run)}"
    warm = [request(path, body) for body in event_bodies(300, 100, prefix + "w")]
    await post_all(port, warm, CONNECTIONS)
    measured = [request(path, body) for body in event_bodies(events, 5_000, prefix)]
    return await post_all(port, measured, CONNECTIONS)
