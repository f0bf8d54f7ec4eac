"""PgQueuer as a forwarder: asyncpg, uvloop, batches of 500, its own autovacuum settings."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from sending import Sender

BATCH = 500


async def prepare(pg: asyncpg.Connection) -> None:
    queries = Queries(AsyncpgDriver(pg))
    await queries.install()
    await queries.optimize_autovacuum()


async def forward(pg: asyncpg.Connection) -> None:
    sender = Sender()
    worker = PgQueuer(AsyncpgDriver(pg))

    @worker.entrypoint("event")
    async def send(job: Job) -> None:
        assert job.payload is not None
        assert job.headers is not None
        await sender.send(job.headers["id"], job.headers["key"], job.payload)

    run = worker.run(timedelta(seconds=1), BATCH, max_concurrent_tasks=4 * BATCH)
    working = asyncio.create_task(run)
    await sender.finished.wait()
    worker.shutdown.set()
    await working


async def main() -> None:
    pg = await asyncpg.connect(sys.argv[2])
    try:
        await (prepare if sys.argv[1] == "prepare" else forward)(pg)
    finally:
        await pg.close()


if __name__ == "__main__":
    uvloop.run(main())
