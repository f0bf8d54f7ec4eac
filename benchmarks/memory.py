"""MB of resident memory: the receiver idle and under large uploads, the forwarder on a backlog."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from benchmarks import figures, naive_receiver
from benchmarks.cpu import memory_of
from benchmarks.forwarder import forward
from benchmarks.load import SECRET, event_bodies, request
from benchmarks.parts import POSTGRES_SETTINGS, Options, Relay, broker, new_database, new_relay
from benchmarks.receiver import Target, listening, relay_receiver
from relay.dev.postgres import EmbeddedPostgres

UPLOADS = 200
UPLOAD_BYTES = 49_000_000
BACKLOG = 80_000
_CHUNK = 256 * 1024


class Bench:
    def __init__(self, server: EmbeddedPostgres, kafka: str, options: Options) -> None:
        self.server = server
        self.kafka = kafka
        self.options = options

    async def idle(self) -> float:
        async with relay_receiver(await self._new()) as target:
            await asyncio.sleep(1)
            return memory_of(target.pid, "VmRSS")

    async def naive_idle(self) -> float:
        url = await new_database(self.server.dsn, "bench_naive")
        await naive_receiver.create(url)
        command = [sys.executable, "-m", "benchmarks.naive_receiver", "PORT", url]
        async with listening(command) as target:
            await asyncio.sleep(1)
            return memory_of(target.pid, "VmRSS")

    async def uploads(self) -> float:
        async with relay_receiver(await self._new()) as target:
            upload = request(target.path, _large_body())
            uploads = max(1, min(UPLOADS, int(UPLOADS * self.options.scale)))
            answers = await asyncio.gather(*(_upload(target, upload) for _ in range(uploads)))
            Console(stderr=True).print(f"  answers: {dict(Counter(answers))}")
            return memory_of(target.pid)

    async def backlog(self, events: int) -> float:
        relay = await self._new()
        return (await forward(self.server, self.kafka, relay, self.options, events)).peak

    async def _new(self) -> Relay:
        return await new_relay(self.server.dsn, "bench_relay", SECRET)


async def run(options: Options) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="relay-bench-") as directory,
        EmbeddedPostgres(Path(directory) / "pg", settings=POSTGRES_SETTINGS) as server,
    ):
        async with broker(Path(directory), options) as kafka:
            bench = Bench(server, kafka, options)
            idle = await figures.interleave(
                {"relay": bench.idle, "naive": bench.naive_idle}, options.repetitions, "MB"
            )
            uploads = await figures.interleave({"relay": bench.uploads}, options.repetitions, "MB")
            backlogs = await figures.interleave(
                {
                    "relay": lambda: bench.backlog(BACKLOG),
                    "an eighth of the backlog": lambda: bench.backlog(BACKLOG // 8),
                },
                options.repetitions,
                "MB",
            )
    figures.report("Memory, receiver idle: after the start", idle, "relay", "MB")
    title = f"Memory, receiver with uploads: {UPLOADS} of {UPLOAD_BYTES // 10**6} MB at once"
    figures.report(title, uploads, "relay", "MB")
    title = f"Memory, forwarder: at most, with {options.events(BACKLOG):,} events waiting"
    figures.report(title, backlogs, "relay", "MB")


def _large_body() -> bytes:
    body = event_bodies(1, 1, "large")[0]
    padding = UPLOAD_BYTES - len(body)
    return body.replace(b'"field_0": "', b'"field_0": "' + b"x" * padding, 1)


async def _upload(target: Target, upload: bytes) -> str:
    """The status of the answer; a receiver that has enough may answer before it has it all."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    try:
        answer = asyncio.create_task(reader.readline())
        view = memoryview(upload)
        with suppress(ConnectionError):
            for start in range(0, len(view), _CHUNK):
                if answer.done():
                    break
                writer.write(view[start : start + _CHUNK])
                await writer.drain()
        try:
            return (await answer).split()[1].decode()
        except (ConnectionError, IndexError):
            return "hung up"
    finally:
        writer.close()
