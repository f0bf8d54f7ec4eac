"""A small world around the snapshotter: a source with a Stripe key, a fake Stripe, readers."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec

from relay.core.source import SourceConfig
from relay.dev.stripe_api import FakeStripe
from relay.settings import Settings
from relay.snapshotter import Shared, Snapshotter, Upkeep
from relay.store import ranges, snapshots, sources
from relay.store.engine import Database
from relay.store.ranges import Range
from relay.store.sealing import Seal, new_key
from relay.store.snapshot_plan import Asked, plan


class World:
    """One database; `rates` are Stripe's own unless a test wants them out of its way."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.seal = Seal([new_key()])
        self.settings = Settings(stripe_rate_share=1.0)
        self._all_shared: list[Shared] = []

    async def add_source(
        self, fake: FakeStripe, *, key: str | None = None, **settings: Any
    ) -> SourceConfig:
        """A source whose Stripe is the fake; its key is the fake's test key unless given."""
        self.settings = msgspec.structs.replace(self.settings, stripe_api_base=fake.url)
        given = {"resources": ("customer",), "insecure": True} | settings
        wanted = SourceConfig(source_id=0, public_id="", name="shop", **given)
        async with self.database.begin() as connection:
            made, _ = await sources.create(
                connection,
                wanted,
                sealed_secrets=[],
                sealed_stripe_key=self.seal.seal((key or fake.key).encode()),
            )
        return made.config

    async def set_key(self, config: SourceConfig, key: str | None) -> None:
        """What `source update` does with another Stripe key, or none."""
        async with self.database.begin() as connection:
            await sources.update_settings(
                connection,
                config.source_id,
                config,
                sealed_secrets=[],
                sealed_stripe_key=None if key is None else self.seal.seal(key.encode()),
            )

    async def start(self, config: SourceConfig, *resources: str, **asked: Any) -> str:
        """Start a snapshot as the command does; times are in Unix seconds."""
        key = await self._key(config)
        for name in ("created_after", "created_before"):
            if name in asked:
                asked[name] = datetime.fromtimestamp(asked[name], UTC)
        wanted = plan(config, key, Asked(resources=resources, **asked))
        async with self.database.begin() as connection:
            return await snapshots.start(connection, wanted, config.source_id)

    async def _key(self, config: SourceConfig) -> str | None:
        async with self.database.begin() as connection:
            found = await sources.find(connection, config.public_id)
        sealed = found.sealed_stripe_key
        return None if sealed is None else self.seal.open(sealed).decode()

    def process(self) -> Shared:
        """What a process with the role snapshotter has."""
        shared = Shared(self.database, self.seal, self.settings)
        self._all_shared.append(shared)
        return shared

    async def read(self, snapshot_id: str, *, readers: int = 1) -> dict[str, Any]:
        """Let readers of one process read until the snapshot runs no more; how it is then.

        Nobody waits for what waits for a back-off: its time is taken as over.
        """
        shared = self.process()

        async def one() -> None:
            reader = Snapshotter(shared)
            while (await self.show(snapshot_id))["state"] == "running":
                if not await reader.run_once():
                    await self.end_waits()
                    await Upkeep(shared).run_once()

        await asyncio.gather(*[one() for _ in range(readers)])
        return await self.show(snapshot_id)

    async def end_waits(self) -> None:
        async with self.database.driver() as pg:
            await pg.execute(
                "UPDATE relay.snapshot_range SET wait_until = NULL WHERE id IN (SELECT id FROM"
                " relay.snapshot_range WHERE wait_until IS NOT NULL FOR UPDATE SKIP LOCKED)"
            )

    async def show(self, snapshot_id: str) -> dict[str, Any]:
        async with self.database.begin() as connection:
            return await snapshots.show(connection, snapshot_id)

    async def progress(self, snapshot_id: str) -> dict[str, dict[str, Any]]:
        """By resource."""
        async with self.database.begin() as connection:
            rows = await snapshots.progress(connection, snapshot_id)
        return {row["resource"]: row for row in rows}

    async def change(self, snapshot_id: str, action: snapshots.Action) -> bool:
        async with self.database.begin() as connection:
            return await snapshots.change(connection, snapshot_id, action)

    async def inbox(self, origin: str = "snapshot") -> dict[str, dict[str, Any]]:
        """The events of the inbox, decoded, by object id. Each object must be there once."""
        async with self.database.driver() as pg:
            rows = await pg.fetch(
                "SELECT object_id, body FROM relay.inbox WHERE origin = $1 ORDER BY id", origin
            )
        found: dict[str, dict[str, Any]] = {}
        for row in rows:
            assert row["object_id"] not in found, f"{row['object_id']} is there twice"
            found[row["object_id"]] = json.loads(row["body"])
        return found

    async def ranges(self, snapshot_id: str) -> list[dict[str, Any]]:
        async with self.database.driver() as pg:
            rows = await pg.fetch(
                "SELECT * FROM relay.snapshot_range WHERE snapshot_id = $1 ORDER BY id", snapshot_id
            )
        return [dict(row) for row in rows]

    async def hold(
        self, pg: asyncpg.Connection, snapshot_id: str, *, idle_ms: int = 30_000
    ) -> Range:
        """Lock the only range of a snapshot, as a reader with a page in hand does."""
        [row] = await self.ranges(snapshot_id)
        await pg.execute(ranges.BEGIN.format(idle_ms=idle_ms))
        claimed = await ranges.claim(pg, row["id"])
        assert claimed is not None
        return claimed

    async def close(self) -> None:
        for shared in self._all_shared:
            await shared.close()
