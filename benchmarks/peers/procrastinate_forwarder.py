"""procrastinate as a forwarder: asynchronous tasks, a connection for each of 30 at a time."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from procrastinate import App, PsycopgConnector
from sending import Sender

CONCURRENCY = 30


async def main() -> None:
    app = App(connector=PsycopgConnector(conninfo=sys.argv[2], max_size=CONCURRENCY + 1))
    async with app.open_async():
        await (prepare if sys.argv[1] == "prepare" else forward)(app)


async def prepare(app: App) -> None:
    await app.schema_manager.apply_schema_async()


async def forward(app: App) -> None:
    sender = Sender()

    @app.task(name="event", queue="events")
    async def send(event_id: str, key: str, payload: str) -> None:
        await sender.send(event_id, key, payload.encode())

    working = asyncio.create_task(
        app.run_worker_async(
            concurrency=CONCURRENCY, delete_jobs="always", install_signal_handlers=False
        )
    )
    await sender.finished.wait()
    working.cancel()
    await asyncio.wait([working])


if __name__ == "__main__":
    uvloop.run(main())
