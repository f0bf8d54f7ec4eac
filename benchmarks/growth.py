"""What forwarding costs when there is a past: settled events, an old transaction, two forwarders.

The cost of claiming and settling is the CPU of PostgreSQL: that of the forwarder does not depend on
the past.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path

import asyncpg

from benchmarks import figures
from benchmarks.forwarder import forward
from benchmarks.load import SECRET
from benchmarks.parts import POSTGRES_SETTINGS, Options, Relay, broker, new_relay
from relay.dev.postgres import EmbeddedPostgres
from relay.store import seals
from tests.support import many_events

EVENTS = 20_000


class Bench:
    def __init__(
        self, server: EmbeddedPostgres, kafka: str, options: Options, settled: Relay
    ) -> None:
        self.server = server
        self.kafka = kafka
        self.options = options
        self._settled = settled
        self.rates: dict[str, list[float]] = defaultdict(list)

    async def empty(self) -> float:
        return await self._forward("empty", await self._new())

    async def settled(self) -> float:
        return await self._forward("settled", self._settled)

    async def old_transaction(self) -> float:
        relay = await self._new()
        pg = await asyncpg.connect(relay.url)
        try:
            async with pg.transaction(isolation="repeatable_read"):
                await pg.execute("SELECT pg_current_xact_id()")
                return await self._forward("old transaction", relay)
        finally:
            await pg.close()

    async def two_forwarders(self) -> float:
        return await self._forward("two forwarders", await self._new(), forwarders=2)

    async def _new(self) -> Relay:
        return await new_relay(self.server.dsn, "bench_relay", SECRET)

    async def _forward(self, name: str, relay: Relay, forwarders: int = 1) -> float:
        cost = await forward(
            self.server, self.kafka, relay, self.options, EVENTS, forwarders=forwarders
        )
        self.rates[name].append(cost.rate)
        return cost.postgres


async def run(options: Options) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="relay-bench-") as directory,
        EmbeddedPostgres(Path(directory) / "pg", settings=POSTGRES_SETTINGS) as server,
    ):
        async with broker(Path(directory), options) as kafka:
            settled = await _with_settled(server.dsn, options.settled)
            bench = Bench(server, kafka, options, settled)
            costs = await figures.interleave(
                {
                    "empty": bench.empty,
                    "settled": bench.settled,
                    "old transaction": bench.old_transaction,
                    "two forwarders": bench.two_forwarders,
                },
                options.repetitions,
                "µs of PostgreSQL per event",
            )
    title = f"Growth, settled events: PostgreSQL per event, with {options.settled:,} and without"
    figures.report(title, _two(costs, "settled", "empty"), "settled", "µs")
    title = "Growth, old transaction: PostgreSQL per event, with one and without"
    figures.report(title, _two(costs, "old transaction", "empty"), "old transaction", "µs")
    one = {"two forwarders": bench.rates["two forwarders"], "one forwarder": bench.rates["empty"]}
    figures.report("Growth, forwarders: two processes and one", one, "two forwarders")
    figures.report("Growth: the same, by rate", bench.rates, "empty")


def _two(figures: dict[str, list[float]], *names: str) -> dict[str, list[float]]:
    return {name: figures[name] for name in names}


async def _with_settled(server: str, events: int) -> Relay:
    relay = await new_relay(server, "bench_settled", SECRET)
    pg = await asyncpg.connect(relay.url)
    try:
        await many_events.fill(pg, relay.source.config.source_id, events, waiting=0)
        # As an inbox with a past is: else sealing all of it would be counted.
        while (await seals.seal_round(pg)).rows:
            pass
        await pg.execute("VACUUM ANALYZE")
    finally:
        await pg.close()
    return relay
