"""Events per second from a full inbox to acknowledged records, one forwarder process."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from itertools import count
from pathlib import Path

import asyncpg
from confluent_kafka import Producer

from benchmarks import figures
from benchmarks.load import SECRET, event_bodies
from benchmarks.parts import (
    POSTGRES_SETTINGS,
    broker,
    free_port,
    new_database,
    new_relay,
    server_process,
)
from relay.core.event import peek
from relay.dev.postgres import EmbeddedPostgres
from relay.store import inbox
from relay.store.engine import Database

OBJECTS = 5_000
_run = count()


async def run(repetitions: int) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="relay-bench-") as directory,
        EmbeddedPostgres(Path(directory) / "pg", settings=POSTGRES_SETTINGS) as server,
    ):
        async with broker(Path(directory)) as kafka:

            async def relay() -> float:
                return await _relay(server.dsn, kafka, events=40_000)

            async def naive() -> float:
                return await _naive(server.dsn, kafka, events=1_500)

            contenders = {"relay": relay, "one row at a time": naive}
            result = await figures.interleave(contenders, repetitions)
    title = "Forwarder: 3 KB events, order and receipts on, one process"
    figures.report(title, result, ours="relay")


async def _relay(server: str, kafka: str, events: int) -> float:
    url, source, _, seal_key = await new_relay(server, "bench_relay", SECRET)
    await _fill(url, source.config.source_id, event_bodies(events, OBJECTS, f"f{next(_run)}"))
    environment = {
        "RELAY_DATABASE_URL": url,
        "RELAY_ENCRYPTION_KEYS": seal_key,
        "RELAY_KAFKA_BOOTSTRAP_SERVERS": kafka,
        "RELAY_ADMIN_BIND": f"127.0.0.1:{free_port()}",
        "RELAY_LOG_LEVEL": "error",
    }
    watch = await asyncpg.connect(url)
    try:
        with server_process(["relay", "serve", "--roles", "forwarder"], environment):
            return await _rate(watch)
    finally:
        await watch.close()


async def _rate(watch: asyncpg.Connection) -> float:
    """Rows per second from the first settled batch to the last, by the database's own clock."""
    while await watch.fetchval("SELECT EXISTS (SELECT FROM relay.queue)"):
        await asyncio.sleep(0.05)
    row = await watch.fetchrow(
        """
        SELECT count(*) - count(*) FILTER (WHERE produced_at = first) AS events,
               extract(epoch FROM max(produced_at) - first)::float8 AS seconds
        FROM relay.receipt, (SELECT min(produced_at) AS first FROM relay.receipt) f GROUP BY first
        """
    )
    return float(row["events"] / row["seconds"])


async def _fill(url: str, source_id: int, bodies: list[bytes]) -> None:
    database = Database(url)
    try:
        for start in range(0, len(bodies), 500):
            events = [
                inbox.new_event(
                    peek(body), body, source_id=source_id, origin="webhook", signature_header=None
                )
                for body in bodies[start : start + 500]
            ]
            async with database.driver() as pg, pg.transaction():
                await inbox.put(pg, events)
        async with database.driver() as pg:
            await pg.execute("VACUUM ANALYZE relay.queue")
    finally:
        await database.close()


async def _naive(server: str, kafka: str, events: int) -> float:
    """Take one row, produce it, wait for the report, mark it: what a first version does."""
    pg = await asyncpg.connect(await new_database(server, "bench_naive"))
    try:
        await pg.execute(
            "CREATE TABLE inbox (id bigserial PRIMARY KEY, body bytea NOT NULL,"
            " status text NOT NULL DEFAULT 'pending');"
            "CREATE INDEX ON inbox (id) WHERE status = 'pending'"
        )
        bodies = event_bodies(events, OBJECTS, f"n{next(_run)}")
        await pg.executemany("INSERT INTO inbox (body) VALUES ($1)", [(body,) for body in bodies])
        producer = Producer({"bootstrap.servers": kafka, "acks": "all", "linger.ms": 0})
        await _naive_step(pg, producer)
        start = time.perf_counter()
        while await _naive_step(pg, producer):
            pass
        return (events - 1) / (time.perf_counter() - start)
    finally:
        await pg.close()


async def _naive_step(pg: asyncpg.Connection, producer: Producer) -> bool:
    async with pg.transaction():
        row = await pg.fetchrow(
            "SELECT id, body FROM inbox WHERE status = 'pending'"
            " ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"
        )
        if row is None:
            return False
        payload = json.loads(row["body"])["data"]["object"]
        key = json.dumps({"id": payload["id"]})
        producer.produce("naive", json.dumps(payload).encode(), key.encode())
        producer.flush()
        await pg.execute("UPDATE inbox SET status = 'delivered' WHERE id = $1", row["id"])
    return True
