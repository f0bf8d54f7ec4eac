"""Housekeeping: partitions ahead, retention, and the small rows that outlive them.

It runs in every process of any number of hosts, in one of them at a time.
"""

from __future__ import annotations

import asyncpg
import structlog

from relay.store import events, inbox, partitions
from relay.store.engine import READ_COMMITTED, Database

_log = structlog.get_logger("relay.janitor")

# Taking a partition out waits for the transactions that may still read it.
_ROUND_SECONDS = 3600.0


class Janitor:
    """One round of housekeeping per ``run_once``."""

    def __init__(self, database: Database, *, retention_days: int) -> None:
        self._database = database
        self._retention_days = retention_days

    async def run_once(self) -> int:
        """Returns how many things were done; 0 also when another process is at it."""
        # The lock lives in a transaction of its own: dropping a partition must be outside of one,
        # and locks of a session do not pass through a pooler.
        async with (
            self._database.driver(_ROUND_SECONDS) as guard,
            guard.transaction(isolation=READ_COMMITTED),
        ):
            if not await partitions.try_lock_housekeeping(guard):
                return 0
            return await self._keep_house()

    async def _keep_house(self) -> int:
        async with self._database.driver(_ROUND_SECONDS) as pg:
            made = await partitions.ensure_ahead(pg, retention_days=self._retention_days)
            if made:
                _log.info("janitor.partitions_made", partitions=made)
            dropped = await self._drop(pg)
            pruned = await partitions.prune(pg, retention_days=self._retention_days)
            pruned += await inbox.prune_refused(pg)
        async with self._database.begin() as connection:
            discarded = await events.discard_deleted_sources(connection)
        return made + dropped + pruned + discarded

    async def _drop(self, pg: asyncpg.Connection) -> int:
        days = self._retention_days
        dropped = await partitions.finish_drops(pg, retention_days=days)
        for partition in await partitions.find_droppable(pg, retention_days=days):
            if not await partitions.drop(pg, partition):
                break
            _log.info(
                "janitor.partition_dropped",
                received_from=partition.lower.isoformat(),
                received_until=partition.upper.isoformat(),
            )
            dropped += 1
        return dropped
