"""Objects per second from Stripe's lists into the inbox, one snapshotter process.

All read the same fake of the Stripe API, which is a process of its own. Nobody forwards: the source
is paused, so that its rows do not hold the snapshot up.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from benchmarks import cpu, figures
from benchmarks.load import SECRET, post_all
from benchmarks.parts import (
    POSTGRES_SETTINGS,
    free_port,
    new_database,
    new_relay,
    server_process,
    wait_for_port,
)
from benchmarks.stripe_paging import LISTS, PAGE
from relay.core.listings import listing_of
from relay.dev.postgres import EmbeddedPostgres
from relay.dev.stripe_api.server import LIVE_KEY
from relay.store import snapshots, sources
from relay.store.engine import Database
from relay.store.snapshot_plan import Asked, plan

OBJECTS = 5_000
"""Of each of the eight lists."""
OBJECTS_OF_PACKAGE = 1_000
"""As many of them are enough for what is slower."""
CONNECTIONS = 8
"""Of a snapshotter, unless it is told otherwise."""


class Bench:
    """The servers that all contenders share, and the CPU that each of them used per object."""

    def __init__(self, server: EmbeddedPostgres, stripe: str) -> None:
        self.server = server
        self.stripe = stripe
        self.python: dict[str, list[float]] = defaultdict(list)
        """µs per object, of the process itself."""
        self.postgres: dict[str, list[float]] = defaultdict(list)
        """The same of PostgreSQL with all its processes."""

    async def relay(self, name: str, module: str) -> float:
        """A snapshot from its first page to its last; `module` is the one that serves."""
        url, source, _, seal_key = await new_relay(self.server.dsn, "bench_relay", SECRET, LIVE_KEY)
        admin = free_port()
        environment = {
            "RELAY_DATABASE_URL": url,
            "RELAY_ENCRYPTION_KEYS": seal_key,
            "RELAY_STRIPE_API_BASE": self.stripe,
            "RELAY_STRIPE_RATE_SHARE": "1.0",
            "RELAY_SNAPSHOT_CONNECTIONS": str(CONNECTIONS),
            "RELAY_ADMIN_BIND": f"127.0.0.1:{admin}",
            "RELAY_LOG_LEVEL": "error",
        }
        watch = await asyncpg.connect(url)
        database = Database(url)
        try:
            with server_process([module, "serve", "--roles", "snapshotter"], environment) as ours:
                await wait_for_port(admin)
                ours_before = cpu.of_process(ours.pid)
                postgres_before = cpu.of_family(self.server.pid)
                async with database.begin() as connection:
                    await sources.pause(connection, source.config.source_id)
                    wanted = plan(source.config, LIVE_KEY, Asked(resources=tuple(LISTS)))
                    await snapshots.start(connection, wanted, source.config.source_id)
                rate, objects = await _finish(watch)
                self._count(name, objects, cpu.of_process(ours.pid) - ours_before, postgres_before)
                return rate
        finally:
            await database.close()
            await watch.close()

    async def package(self, name: str, *, stores: bool) -> float:
        arguments = [self.stripe, LIVE_KEY, str(OBJECTS_OF_PACKAGE)]
        if stores:
            arguments.append(await new_database(self.server.dsn, "bench_naive"))
        postgres_before = cpu.of_family(self.server.pid)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.stripe_paging", *arguments, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        told = json.loads(output)
        objects = OBJECTS_OF_PACKAGE * len(LISTS)
        self._count(name, objects, told["cpu"], postgres_before if stores else None)
        return float(objects / told["seconds"])

    async def bare(self) -> float:
        """What the fake itself can do: the same pages, received and thrown away."""
        port = int(self.stripe.rpartition(":")[2])
        pages = [page_request(name) for name in LISTS] * (OBJECTS // PAGE)
        return PAGE * await post_all(port, pages, CONNECTIONS)

    def _count(
        self, name: str, objects: int, python_seconds: float, postgres_before: float | None
    ) -> None:
        self.python[name].append(python_seconds / objects * 1e6)
        if postgres_before is not None:
            used = cpu.of_family(self.server.pid) - postgres_before
            self.postgres[name].append(used / objects * 1e6)


async def run(repetitions: int) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="relay-bench-") as directory,
        EmbeddedPostgres(Path(directory), settings=POSTGRES_SETTINGS) as server,
        fake_stripe() as stripe,
    ):
        bench = Bench(server, stripe)
        await bench.bare()  # makes the objects
        contenders: dict[str, Callable[[], Awaitable[float]]] = {
            "relay": lambda: bench.relay("relay", "benchmarks.unlimited"),
            "relay, Stripe's limits": lambda: bench.relay("relay, Stripe's limits", "relay"),
            "package": lambda: bench.package("package", stores=False),
            "package + INSERT": lambda: bench.package("package + INSERT", stores=True),
            "the fake itself": bench.bare,
        }
        rates = await figures.interleave(contenders, repetitions, "objects/s")
    figures.report("Snapshot: pages of 100, one process", rates, "relay", "objects/s")
    figures.report("Snapshot CPU: Python", bench.python, "relay", "µs/object")
    figures.report("Snapshot CPU of PostgreSQL: all of it", bench.postgres, "relay", "µs/object")


@contextmanager
def fake_stripe() -> Iterator[str]:
    """The URL of a fake Stripe with so many objects of each list, in a process of its own."""
    objects = ",".join(f"{name}={OBJECTS}" for name in LISTS)
    command = [sys.executable, "-m", "relay.dev.stripe_api", "--objects", objects]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[0]
    finally:
        process.terminate()
        process.wait(timeout=60)


def page_request(resource: str) -> bytes:
    """The first page of a list, as the bytes of a request."""
    listing = listing_of(resource, "event_type")
    assert listing is not None
    return (
        f"GET {listing.path}?limit={PAGE} HTTP/1.1\r\nHost: benchmark\r\n"
        f"Authorization: Bearer {LIVE_KEY}\r\n\r\n"
    ).encode()


async def _finish(watch: asyncpg.Connection) -> tuple[float, int]:
    """Objects per second behind the first page, by the database's own clock, and how many."""
    state = "SELECT state FROM relay.snapshot"
    while (told := await watch.fetchval(state)) == "running":
        await asyncio.sleep(0.05)
    assert told == "finished", told
    row = await watch.fetchrow(
        "SELECT sum(objects)::bigint AS objects, extract(epoch FROM max(finished_at)"
        " - min(started_at))::float8 AS seconds FROM relay.snapshot_range"
    )
    assert row["objects"] == OBJECTS * len(LISTS), row
    return (row["objects"] - PAGE) / row["seconds"], row["objects"]
