"""Acknowledged events per second, 64 connections, one receiver process.

And what a stored event costs PostgreSQL, and the latency at half of the load.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import asyncpg

from benchmarks import cpu, figures, naive_receiver, peers, profiles
from benchmarks.load import SECRET, event_bodies, post_all, post_at, request
from benchmarks.parts import (
    POSTGRES_SETTINGS,
    Options,
    Relay,
    free_port,
    new_database,
    new_relay,
    process,
    wait_for_port,
)
from relay.dev.postgres import EmbeddedPostgres

CONNECTIONS = 64
OBJECTS = 5_000
ORM = "one ORM transaction per request"
GO = "Go, pgx, one INSERT per request"
_run = count()


class Target(NamedTuple):
    """A receiver that listens."""

    port: int
    path: str
    pid: int


@asynccontextmanager
async def relay_receiver(relay: Relay) -> AsyncIterator[Target]:
    """The product's."""
    port = free_port()
    environment = {
        "RELAY_DATABASE_URL": relay.url,
        "RELAY_ENCRYPTION_KEYS": relay.seal_key,
        "RELAY_BIND": f"127.0.0.1:{port}",
        "RELAY_ADMIN_BIND": f"127.0.0.1:{free_port()}",
        "RELAY_LOG_LEVEL": "error",
    }
    command = [sys.executable, "-m", "relay", "serve", "--roles", "receiver"]
    with process(command, environment) as running:
        await wait_for_port(port)
        yield Target(port, relay.path, running.pid)


@asynccontextmanager
async def listening(command: list[str]) -> AsyncIterator[Target]:
    """Any other one; PORT in its command becomes one that is free."""
    port = free_port()
    with process([part.replace("PORT", str(port)) for part in command], {}) as running:
        await wait_for_port(port)
        yield Target(port, "/webhooks", running.pid)


class Bench:
    def __init__(self, server: EmbeddedPostgres, options: Options) -> None:
        self.server = server
        self.options = options
        self.postgres: dict[str, list[float]] = defaultdict(list)
        """µs of CPU of PostgreSQL per event."""
        self.process: dict[str, list[float]] = defaultdict(list)
        """The same of the receiver itself."""

    async def relay(self) -> float:
        async with relay_receiver(await self._new_relay()) as target:
            with profiles.watch(target.pid, "receiver", wanted=self.options.profile):
                return await self._post("relay", target, 20_000)

    async def orm(self) -> float:
        url = await new_database(self.server.dsn, "bench_naive")
        await naive_receiver.create(url)
        async with listening([*_python("naive_receiver"), "PORT", url]) as target:
            return await self._post(ORM, target, 3_000)

    async def go(self, command: list[str]) -> float:
        url = await new_database(self.server.dsn, "bench_go")
        async with listening([*command, "PORT", url, SECRET]) as target:
            return await self._post(GO, target, 10_000)

    async def no_database(self, name: str, module: str, events: int) -> float:
        async with listening([*_python(module), "PORT"]) as target:
            return await self._post(name, target, events, stores=False)

    async def latency(self, rate: float) -> float:
        """Milliseconds that 99 of 100 answers stay within, at so many requests a second."""
        async with relay_receiver(await self._new_relay()) as target:
            await post_all(target.port, _requests(target.path, 300), CONNECTIONS)
            requests = _requests(target.path, self.options.events(15_000))
            _, took = await post_at(target.port, requests, CONNECTIONS, rate)
            return _p99(took)

    async def single_insert(self) -> float:
        """The same of one client that inserts a row at a time, in a transaction each."""
        pg = await asyncpg.connect(await new_database(self.server.dsn, "bench_naive"))
        try:
            await pg.execute("CREATE TABLE inbox (id bigserial PRIMARY KEY, body bytea NOT NULL)")
            took = []
            for body in event_bodies(self.options.events(3_000), OBJECTS, "i"):
                start = time.perf_counter()
                await pg.execute("INSERT INTO inbox (body) VALUES ($1)", body)
                took.append(time.perf_counter() - start)
            return _p99(took)
        finally:
            await pg.close()

    async def _new_relay(self) -> Relay:
        return await new_relay(self.server.dsn, "bench_relay", SECRET)

    async def _post(self, name: str, target: Target, events: int, *, stores: bool = True) -> float:
        await post_all(target.port, _requests(target.path, 300), CONNECTIONS)
        requests = _requests(target.path, self.options.events(events))
        before = cpu.of_process(target.pid), cpu.of_family(self.server.pid)
        rate = await post_all(target.port, requests, CONNECTIONS)
        after = cpu.of_process(target.pid), cpu.of_family(self.server.pid)
        process, postgres = (
            (used - at_first) / len(requests) * 1e6
            for used, at_first in zip(after, before, strict=True)
        )
        self.process[name].append(process)
        if stores:
            self.postgres[name].append(postgres)
        return rate


async def run(options: Options) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="relay-bench-") as directory,
        EmbeddedPostgres(Path(directory), settings=POSTGRES_SETTINGS) as server,
    ):
        bench = Bench(server, options)
        contenders: dict[str, figures.Run] = {
            "relay": bench.relay,
            ORM: bench.orm,
        }
        for name, command in peers.commands({GO: lambda: peers.go("receiver")}).items():
            contenders[name] = partial(bench.go, command)
        for name, module, events in (
            ("Litestar, HMAC, no database", "naive_receiver", 10_000),
            ("bare ASGI", "echo", 30_000),
        ):
            contenders[name] = partial(bench.no_database, name, module, events)
        rates = await figures.interleave(contenders, options.repetitions)
        half = statistics.median(rates["relay"]) / 2
        latencies = await figures.interleave(
            {"relay": lambda: bench.latency(half), "one INSERT at a time": bench.single_insert},
            options.repetitions,
            "ms",
        )
    title = f"Receiver: {CONNECTIONS} connections, 3 KB events, one process"
    figures.report(title, rates, "relay")
    title = f"Receiver, PostgreSQL: CPU per event at {CONNECTIONS} connections"
    figures.report(title, bench.postgres, "relay", "µs")
    figures.report("Receiver, process: its CPU per event", bench.process, "relay", "µs")
    title = f"Receiver, latency: p99 at {half:,.0f} events/s, half of the load"
    figures.report(title, latencies, "relay", "ms")


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.{module}"]


def _requests(path: str, events: int) -> list[bytes]:
    return [request(path, body) for body in event_bodies(events, OBJECTS, f"r{next(_run)}")]


def _p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98] * 1000
