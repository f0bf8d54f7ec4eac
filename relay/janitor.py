"""Housekeeping: partitions ahead, retention, the small rows that outlive them, and seals.

It runs in every process of any number of hosts, in one of them at a time. Dropping and deleting
are the owner's alone: a process with a lesser role makes partitions and leaves the rest to
`relay housekeeping`. Forwarders seal as well, for they may read what they seal.
"""

from __future__ import annotations

import asyncpg
import msgspec
import structlog

from relay.store import events, inbox, ownership, partitions, seals, xact_index
from relay.store.engine import READ_COMMITTED, Database

_log = structlog.get_logger("relay.janitor")

# Taking a partition out waits for the transactions that may still read it.
_ROUND_SECONDS = 3600.0

# What a role meets that may not make partitions: without the right, or on a schema of before.
_MAY_NOT_MAKE = (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedFunctionError)


class Round(msgspec.Struct, frozen=True):
    """What one round did. ``is_whole`` is False when this role may not drop and delete."""

    made: int
    dropped: int
    pruned: int
    discarded: int
    sealed: int
    is_whole: bool

    @property
    def done(self) -> int:
        """How many things there were to do; not the sealing, which has no end while rows come."""
        return self.made + self.dropped + self.pruned + self.discarded


class Janitor:
    """One round of housekeeping per ``run_once``."""

    def __init__(self, database: Database, *, retention_days: int) -> None:
        self._database = database
        self._retention_days = retention_days
        self._told: set[str] = set()

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
            return (await self._keep_house()).done

    async def run_in_turn(self, *, patience_seconds: float) -> Round:
        """One round after whoever is at it. Raises LockNotAvailableError when that takes long."""
        async with (
            self._database.driver(_ROUND_SECONDS) as guard,
            guard.transaction(isolation=READ_COMMITTED),
        ):
            await partitions.lock_housekeeping(guard, patience_seconds)
            return await self._keep_house()

    async def _keep_house(self) -> Round:
        async with self._database.driver(_ROUND_SECONDS) as pg:
            made = await self._make(pg)
            may_seal = await seals.may_seal(pg)
            if not await ownership.has_owners_rights(pg):
                self._tell_once("janitor.leaves_the_rest")
                sealed = await self._seal(pg) if may_seal else 0
                return Round(made, 0, 0, 0, sealed, is_whole=False)
            dropped = await self._drop(pg)
            pruned = await partitions.prune(pg, retention_days=self._retention_days)
            pruned += await inbox.prune_refused(pg)
            sealed = 0
            if may_seal:
                pruned += await seals.prune(pg)
                await xact_index.complete(pg)
                sealed = await self._seal(pg)
        async with self._database.begin() as connection:
            discarded = await events.discard_deleted_sources(connection)
        return Round(made, dropped, pruned, discarded, sealed, is_whole=True)

    async def _seal(self, pg: asyncpg.Connection) -> int:
        """How many rows are sealed now that were not before."""
        if not await xact_index.is_complete(pg):
            # Without the index each look would read whole partitions.
            self._tell_once("janitor.seals_wait_for_an_index")
            return 0
        done = await seals.seal_round(pg)
        if done.rows and done.head is not None:
            # Whoever owns the database could make another chain. Not another log.
            _log.info(
                "janitor.sealed",
                number=done.head.number,
                head=done.head.sha256.hex(),
                rows=done.rows,
            )
        return done.rows

    async def _make(self, pg: asyncpg.Connection) -> int:
        try:
            made = await partitions.ensure_ahead(pg, retention_days=self._retention_days)
        except _MAY_NOT_MAKE:
            # Another process may; doctor and a metric tell for how long there are some.
            self._tell_once("janitor.may_not_make_partitions")
            return 0
        if made:
            _log.info("janitor.partitions_made", partitions=made)
        return made

    def _tell_once(self, event: str) -> None:
        if event not in self._told:
            self._told.add(event)
            _log.info(event, see="relay housekeeping, as a member of relay_migrator")

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
