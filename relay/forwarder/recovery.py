"""Taking over from processes that died or froze."""

from __future__ import annotations

import asyncpg
import structlog

from relay.forwarder.forwarder import Shared
from relay.forwarder.outcome import death
from relay.store import queue, receipts
from relay.store.engine import READ_COMMITTED
from relay.store.frozen import end_frozen
from relay.store.queue import CrashedBatch
from relay.store.tables import QUEUE_EVENT

_log = structlog.get_logger("relay.forwarder")

_CRASHED = "crashed_worker"
MAX_CRASHES = 3
"""Crashes with the event alone in flight after which it is dead."""


class Recovery:
    """Ends frozen transactions, frees the lanes of dead batches and buries what kills processes."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def run_once(self) -> int:
        """Returns how many backends were ended and notes taken."""
        settings = self._shared.settings
        await self._shared.load_sources()
        async with self._shared.database.driver() as pg:
            frozen, ended = await end_frozen(pg, "relay.lane", settings.frozen_after_seconds)
            fence = settings.delivery_timeout_seconds + settings.fence_margin_seconds
            notes = await queue.find_dead_notes(pg, fence)
        self._shared.counters.backends_ended += ended
        if frozen:
            _log.warning("forwarder.frozen", backends=frozen, ended=ended)
        taken = 0
        for note_id in notes:
            async with (
                self._shared.database.driver() as pg,
                pg.transaction(isolation=READ_COMMITTED),
            ):
                batch = await queue.take_dead_note(pg, note_id, MAX_CRASHES)
                if batch is None:
                    continue
                dead, halted = await self._bury(pg, batch)
            taken += 1
            counters = self._shared.counters
            counters.batches_freed += 1
            counters.dead[_CRASHED] += dead
            counters.sources_halted += halted
            _log.warning(
                "forwarder.lanes_freed",
                suspects=batch.suspects,
                dead=[r.inbox_id for r in batch.dead],
            )
        return ended + taken

    async def _bury(self, pg: asyncpg.Connection, batch: CrashedBatch) -> tuple[int, int]:
        """Returns how many events died, and how many sources were halted instead."""
        dead = halted = 0
        if not batch.dead:
            return dead, halted
        events = await queue.read_events(pg, batch.dead)
        for row in batch.dead:
            source = self._shared.source(row.source_id)
            event = events.get(row.inbox_id)
            if source is None or event is None or row.kind != QUEUE_EVENT:
                continue
            if event.body is None:
                continue  # redacted meanwhile: it is skipped at its next turn
            error = f"its process failed {row.crashes} times with this event alone in flight"
            if not source.dlq:
                await queue.halt(pg, row, _CRASHED, error)
                halted += 1
                continue
            attempts = row.attempts + row.crashes
            await receipts.bury(pg, [death(row, source, event, _CRASHED, error, attempts)])
            dead += 1
        return dead, halted
