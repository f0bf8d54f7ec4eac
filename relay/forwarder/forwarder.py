"""One claiming connection: claim → transform → produce → settle, one batch per ``run_once``."""

from __future__ import annotations

import asyncio
import random
from uuid import UUID, uuid4

import asyncpg
import structlog

from relay.core.routing import LANES
from relay.core.source import SourceConfig
from relay.forwarder.claim import choose
from relay.forwarder.delivery import Delivery, Window
from relay.forwarder.gate import Gate
from relay.forwarder.outcome import Outcomes, Plan, Policy, decide
from relay.kafka import Kafka
from relay.settings import Settings
from relay.store import queue, receipts, sources
from relay.store.engine import Database
from relay.store.queue import QueueRow
from relay.store.tables import QUEUE_DEAD_LETTER_COPY

_log = structlog.get_logger("relay.forwarder")

# A quarter of a source's lanes at a time: its other lanes are free for the other connections.
LANES_PER_BATCH = LANES // 4
_SOURCES_SECONDS = 1.0


class Shared:
    """What the connections of one process have in common."""

    def __init__(self, database: Database, kafka: Kafka, settings: Settings) -> None:
        self.database = database
        self.kafka = kafka
        self.settings = settings
        self.process_id = uuid4()
        self.delivery = Delivery(kafka)
        self.gate = Gate()
        self.policy = Policy(
            random=random.random,
            max_attempts=settings.max_attempts,
            backoff_base_seconds=settings.backoff_base_seconds,
            backoff_cap_seconds=settings.backoff_cap_seconds,
            probe_seconds=settings.probe_seconds,
        )
        self.idle_ms = int(settings.frozen_after_seconds * 1000)
        # Notes of batches that this process has given up, to be withdrawn when the database is
        # back; nothing of them can arrive any more, so the lanes need not rest.
        self.orphan_notes: set[UUID] = set()
        self._sources: dict[int, SourceConfig] = {}
        self._sources_at = -_SOURCES_SECONDS

    async def load_sources(self) -> None:
        """Read the settings of the sources again when they are more than a second old."""
        now = asyncio.get_running_loop().time()
        if now - self._sources_at < _SOURCES_SECONDS:
            return
        async with self.database.begin() as connection:
            found = await sources.list_all(connection)
        self._sources = {each.config.source_id: each.config for each in found}
        self._sources_at = now

    def source(self, source_id: int) -> SourceConfig | None:
        return self._sources.get(source_id)

    async def withdraw_orphan_notes(self) -> None:
        if not self.orphan_notes:
            return
        async with self.database.driver() as pg:
            for note_id in list(self.orphan_notes):
                await queue.delete_note(pg, note_id)
                self.orphan_notes.discard(note_id)

    def window(self) -> Window:
        """From the moment that a note is written, how long its batch may produce and last.

        Producing ends early enough that nothing is on its way when the note's fence falls.
        """
        now = asyncio.get_running_loop().time()
        return Window(
            now + self.settings.fence_margin_seconds * 0.8,
            now + self.settings.batch_timeout_seconds,
        )


class Forwarder:
    """One of the two or three connections with which a process pipelines its batches."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def run_once(self) -> int:
        """Forward one batch; returns how many rows left the queue or were put aside.

        0 means that there was nothing to do, or that Kafka is away. Raises what the database
        raises; whatever was claimed is then free again.
        """
        shared = self._shared
        if shared.kafka.is_down and not await shared.kafka.probe():
            return 0
        if shared.kafka.needs_rebuild:
            # Alone in the process, so that no flight is lost with the old producer.
            async with shared.gate.enter(alone=True):
                await shared.kafka.rebuild()
        await shared.withdraw_orphan_notes()
        await shared.load_sources()
        async with shared.gate.enter(alone=False):
            count = await self._run_batch(alone=False)
        if count is None:
            async with shared.gate.enter(alone=True):
                count = await self._run_batch(alone=True)
        return count or 0

    async def _run_batch(self, *, alone: bool) -> int | None:
        """Claim and forward; None when the batch has to be alone in the process and is not."""
        async with self._shared.database.driver() as pg:
            await pg.execute(queue.BEGIN.format(idle_ms=self._shared.idle_ms))
            rows = await self._claim(pg)
            if not rows or (rows[0].alone and not alone):
                await pg.execute("ROLLBACK")
                return None if rows else 0
            return await self._forward(pg, rows)

    async def _claim(self, pg: asyncpg.Connection) -> list[QueueRow]:
        settings = self._shared.settings
        # The random lane spreads the connections; the random source serves them all in turn.
        known = sorted(self._shared._sources) or [0]
        start = (random.choice(known), random.randrange(LANES))  # noqa: S311 - not a secret
        lanes = await queue.lock_lanes(pg, start, LANES_PER_BATCH)
        if not lanes:
            return []
        rows = await queue.read_lanes(pg, lanes, max(settings.batch_rows // len(lanes), 1))
        ours = [row for row in rows if self._shared.source(row.source_id) is not None]
        return choose(ours, lanes, settings.batch_rows, settings.batch_bytes)

    async def _forward(self, pg: asyncpg.Connection, rows: list[QueueRow]) -> int:
        shared = self._shared
        note_id = uuid4()
        window = shared.window()
        try:
            async with shared.database.driver() as notes:
                await queue.write_note(notes, note_id, shared.process_id, pg.get_server_pid(), rows)
            plans = await self._read(pg, rows)
            copies = [row.inbox_id for row in rows if row.kind == QUEUE_DEAD_LETTER_COPY]
            letters = await receipts.read_dead_letters(pg, copies) if copies else {}
            if rows[0].alone:
                await shared.delivery.send_alone(plans[0], letters, window)
            else:
                await shared.delivery.send(plans, letters, window)
            outcomes = decide(plans, shared.policy)
            await self._settle(pg, outcomes, note_id)
            await pg.execute("COMMIT")
        except BaseException as error:
            await self._abandon(note_id, error)
            raise
        return _report(rows, outcomes)

    async def _read(self, pg: asyncpg.Connection, rows: list[QueueRow]) -> list[Plan]:
        events = await queue.read_events(pg, rows)
        plans = []
        for row in rows:
            config = self._shared.source(row.source_id)
            if config is None:
                raise LookupError(f"source {row.source_id} is gone")
            plans.append(Plan(row, config, events[row.inbox_id]))
        return plans

    async def _settle(self, pg: asyncpg.Connection, outcomes: Outcomes, note_id: UUID) -> None:
        if outcomes.dead:
            await receipts.bury(pg, outcomes.dead)
        if outcomes.parked:
            await queue.park(pg, outcomes.parked)
        for halt in outcomes.halted:
            await queue.halt(pg, halt.row, halt.code, halt.error)
        await receipts.settle(pg, outcomes.settled, note_id)

    async def _abandon(self, note_id: UUID, error: BaseException) -> None:
        """The transaction is lost: make sure that nothing of the batch is sent from now on.

        The purge comes before anything else, and it hits the other batches of the process too;
        theirs are put aside as in an outage.
        """
        await self._shared.kafka.purge()
        self._shared.orphan_notes.add(note_id)
        if not isinstance(error, asyncio.CancelledError):
            _log.warning("forwarder.batch_lost", error=f"{type(error).__name__}: {error}")


def _report(rows: list[QueueRow], outcomes: Outcomes) -> int:
    settled, parked, dead = len(outcomes.settled), len(outcomes.parked), len(outcomes.dead)
    clean = not (parked or dead or outcomes.halted)
    log = _log.debug if clean else _log.warning
    log(
        "forwarder.batch",
        rows=len(rows),
        settled=settled,
        parked=parked,
        dead=dead,
        reasons=sorted({row.code for row in outcomes.parked} | {row.code for row in outcomes.dead}),
    )
    for halt in outcomes.halted:
        _log.error("forwarder.source_halted", code=halt.code, error=halt.error)
    return settled + parked + dead
