"""One claiming connection: claim → transform → produce → settle, one batch per ``run_once``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID, uuid4

import asyncpg
import msgspec
import structlog

from relay.core.routing import LANES
from relay.core.source import SourceConfig
from relay.core.transform import Skip, StoredEvent
from relay.forwarder.claim import choose
from relay.forwarder.counters import Counters
from relay.forwarder.delivery import Delivery, Window
from relay.forwarder.gate import Gate
from relay.forwarder.outcome import Outcomes, Plan, Policy, decide
from relay.kafka import Kafka
from relay.settings import Settings
from relay.store import queue, receipts, sources
from relay.store.engine import Database
from relay.store.failures import is_outage
from relay.store.queue import Parking, QueueRow
from relay.store.tables import QUEUE_DEAD_LETTER_COPY, QUEUE_EVENT

_log = structlog.get_logger("relay.forwarder")

# A quarter of a source's lanes at a time: its other lanes are free for the other connections.
LANES_PER_BATCH = LANES // 4
_SOURCES_SECONDS = 1.0
# Suspects that follow one another spare the claims between them; ordinary batches wait meanwhile.
_SUSPECTS_PER_TURN = 20
# A batch of a few rows costs nearly as much as one of hundreds. After one that holds less than this
# share of what it may the next one is given a moment to fill.
_SMALL_SHARE = 10
_FILL_SECONDS = 0.01
# How often a claim looks on past lanes of which all rows wait behind parked ones.
_LOOKS = 4
# How soon a change of a topic's partitions is noticed and warned about.
_TOPICS_SECONDS = 60.0

Lane = tuple[int, int]
"""Source and number."""


class Suspect(msgspec.Struct, frozen=True):
    """A lane that begins with a row that has to be alone in the process."""

    source_id: int
    lane: int


class Shared:
    """What the connections of one process have in common."""

    def __init__(self, database: Database, kafka: Kafka, settings: Settings) -> None:
        self.database = database
        self.kafka = kafka
        self.settings = settings
        self.process_id = uuid4()
        self.counters = Counters()
        self.delivery = Delivery(kafka, settings, self.counters)
        self.gate = Gate()
        self.policy = Policy(
            random=random.random,
            max_attempts=settings.max_attempts,
            backoff_base_seconds=settings.backoff_base_seconds,
            backoff_cap_seconds=settings.backoff_cap_seconds,
            probe_seconds=settings.probe_seconds,
        )
        self.idle_ms = int(settings.frozen_after_seconds * 1000)
        # Notes of batches that were lost with the database, to be withdrawn when it is back.
        # Nothing of them can arrive any more, so the lanes need not rest.
        self.orphan_notes: set[UUID] = set()
        self._sources: dict[int, tuple[SourceConfig, datetime]] = {}
        self._sources_at = -_SOURCES_SECONDS
        self._topics_at = -_TOPICS_SECONDS

    async def load_sources(self) -> None:
        """Read the settings of the sources again when they are more than a second old."""
        now = asyncio.get_running_loop().time()
        if now - self._sources_at >= _SOURCES_SECONDS:
            await self._read_sources()

    async def load_sources_of(self, rows: Iterable[QueueRow]) -> None:
        """Read them again when they have changed since: a claim goes by what was committed.

        Whoever widens a schema and replays an event wants it to go by the new one.
        """
        changes = {(row.source_id, row.settings_at) for row in rows}
        known = {(source_id, at) for source_id, (_, at) in self._sources.items()}
        if not changes <= known:
            await self._read_sources()

    async def _read_sources(self) -> None:
        now = asyncio.get_running_loop().time()
        async with self.database.begin() as connection:
            found = await sources.list_changes(connection)
        self._sources = {config.source_id: (config, at) for config, at in found}
        self._sources_at = now

    def source(self, source_id: int) -> SourceConfig | None:
        config, _ = self._sources.get(source_id, (None, None))
        return config

    @property
    def source_ids(self) -> list[int]:
        return list(self._sources)

    async def prepare(self) -> bool:
        """What has to be in order before a batch; False when Kafka is away."""
        if self.kafka.needs_rebuild:
            # Alone in the process, so that no flight is lost with the old producer.
            async with self.gate.enter(alone=True):
                if self.kafka.needs_rebuild:
                    await self.kafka.rebuild()
        if self.kafka.is_down and not await self.kafka.probe():
            return False
        if not await self._look_at_topics():
            return False
        await self.withdraw_orphan_notes()
        await self.load_sources()
        return True

    async def _look_at_topics(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._topics_at < _TOPICS_SECONDS:
            return True
        self._topics_at = now
        try:
            await self.kafka.topics.refresh()
        except ConnectionError:
            self.kafka.mark_down()
            return False
        return True

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
            opened=now,
            produce_until=now + self.settings.fence_margin_seconds * 0.8,
            end=now + self.settings.batch_timeout_seconds,
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
        if not await shared.prepare():
            return 0
        async with shared.gate.enter(alone=False):
            found = await self._run_batch(None)
        if isinstance(found, Suspect):
            async with shared.gate.enter(alone=True):
                return await self._run_suspects(found)
        if 0 < found < shared.settings.batch_rows // _SMALL_SHARE:
            await asyncio.sleep(_FILL_SECONDS)
        return found

    async def _run_suspects(self, suspect: Suspect) -> int:
        """One after the other, each in a batch of its own; some in a row, which spares claims."""
        done = 0
        for _ in range(_SUSPECTS_PER_TURN):
            found = await self._run_batch(suspect)
            if not isinstance(found, int) or not found:
                break
            done += found
        return done

    async def _run_batch(self, suspect: Suspect | None) -> int | Suspect:
        """Claim and forward; the lane of a row that has to be alone in the process, if we are not.

        ``suspect`` is where to claim such a row, and no other, when we are.
        """
        # At that age others would end it; a server that hangs has to be left by ourselves.
        seconds = self._shared.settings.frozen_after_seconds
        async with self._shared.database.driver(seconds) as pg:
            await pg.execute(queue.BEGIN.format(idle_ms=self._shared.idle_ms))
            rows = await self._claim(pg, suspect)
            if not rows or rows[0].alone != (suspect is not None):
                await pg.execute("ROLLBACK")
                found = rows and suspect is None
                return Suspect(rows[0].source_id, rows[0].lane) if found else 0
            return await self._forward(pg, rows)

    async def _claim(self, pg: asyncpg.Connection, suspect: Suspect | None) -> list[QueueRow]:
        if suspect is not None:
            return await self._look(pg, (suspect.source_id, suspect.lane), 1, 1)
        # The random lane spreads the connections; the random source serves them all in turn.
        source_id = random.choice(self._shared.source_ids or [0])  # noqa: S311 - not a secret
        start = source_id, random.randrange(LANES)  # noqa: S311 - nor is this
        return await self._look(pg, start, LANES_PER_BATCH, self._shared.settings.batch_rows)

    async def _look(
        self, pg: asyncpg.Connection, start: Lane, lane_count: int, row_count: int
    ) -> list[QueueRow]:
        """Lock lanes from ``start`` on and choose a batch of their rows.

        Of some lanes all rows wait behind parked ones: then it looks on, so that they do not hold
        up those after them.
        """
        settings = self._shared.settings
        for _ in range(_LOOKS):
            lanes = await queue.lock_lanes(pg, start, lane_count)
            if not lanes:
                break
            rows = await queue.read_lanes(pg, lanes, max(row_count // len(lanes), 1))
            await self._shared.load_sources_of(rows)
            ours = [row for row in rows if self._shared.source(row.source_id) is not None]
            if batch := choose(ours, lanes, settings.batch_rows, settings.batch_bytes):
                return batch
            start = lanes[-1][0], lanes[-1][1] + 1
        return []

    async def _forward(self, pg: asyncpg.Connection, rows: list[QueueRow]) -> int:
        shared = self._shared
        clock = asyncio.get_running_loop().time
        note_id = uuid4()
        sending = False
        try:
            window, events = await self._take(pg, note_id, rows)
            plans, lost = _plan(rows, events, shared)
            await _skip_superseded(pg, plans)
            copies = [row.inbox_id for row in rows if row.kind == QUEUE_DEAD_LETTER_COPY]
            letters = await receipts.read_dead_letters(pg, copies) if copies else {}
            sending, sent_from = True, clock()
            if plans and rows[0].alone:
                await shared.delivery.send_alone(plans[0], letters, window)
            else:
                await shared.delivery.send(plans, letters, window)
            sending, produce = False, clock() - sent_from
            outcomes = decide(plans, shared.policy)
            outcomes.parked += lost
            await self._settle(pg, outcomes, note_id)
            await pg.execute("COMMIT")
        except BaseException as error:
            await self._abandon(note_id, error, sending=sending)
            raise
        shared.counters.count(len(rows), outcomes, clock() - window.opened, produce)
        return _report(rows, outcomes)

    async def _take(
        self, pg: asyncpg.Connection, note_id: UUID, rows: list[QueueRow]
    ) -> tuple[Window, dict[int, StoredEvent]]:
        """Write the note and read the events, and tell until when they may be produced."""
        shared = self._shared
        backend_pid = await shared.database.backend_pid(pg)
        async with shared.database.driver() as notes:
            window = shared.window()
            await queue.write_note(notes, note_id, shared.process_id, backend_pid, rows)
            events = await queue.read_events(pg, rows)
            if not window.is_fresh(asyncio.get_running_loop().time()):
                # Big bodies over a slow line: without this the time would always be over.
                window = shared.window()
                await queue.renew_note(notes, note_id)
                await queue.confirm_locks(pg)
        return window, events

    async def _settle(self, pg: asyncpg.Connection, outcomes: Outcomes, note_id: UUID) -> None:
        if outcomes.dead:
            await receipts.bury(pg, outcomes.dead)
        if outcomes.parked:
            await queue.park(pg, outcomes.parked)
        for halt in sorted(outcomes.halted, key=lambda halt: halt.row.source_id):
            await queue.halt(pg, halt.row, halt.code, halt.error)
        await receipts.settle(pg, outcomes.settled, note_id)

    async def _abandon(self, note_id: UUID, error: BaseException, *, sending: bool) -> None:
        """The batch did not come to its end.

        When the database is the reason, nothing of it is on its way (it was not produced yet, or
        every report is in), so its note is withdrawn and it is claimed again at once. Whatever
        else went wrong may be the fault of one of its rows and happen again: the note stays, and
        they are treated as those of a process that died.
        """
        self._shared.counters.batches_lost += 1
        if sending:
            await self._shared.kafka.purge()
        elif is_outage(error):
            self._shared.orphan_notes.add(note_id)
        if not isinstance(error, asyncio.CancelledError):
            _log.warning("forwarder.batch_lost", error=f"{type(error).__name__}: {error}")


def _plan(
    rows: list[QueueRow], events: dict[int, StoredEvent], shared: Shared
) -> tuple[list[Plan], list[Parking]]:
    """The plans of a batch, and what has to wait because its inbox row cannot be found.

    That can be so for a moment, while a partition is taken out and put back for its sake.
    """
    plans: list[Plan] = []
    lost: dict[tuple[int, int, int], Parking] = {}
    for row in rows:
        config = shared.source(row.source_id)
        event = events.get(row.inbox_id)
        key = (row.source_id, row.lane, row.key_hash)
        if event is None:
            error = f"the inbox has no row {row.inbox_id}"
            seconds = shared.policy.probe_seconds
            waits = Parking(row, seconds, "body_missing", error, row.attempts, row.alone)
            lost.setdefault(key, waits)
        elif config is not None and key not in lost:
            plans.append(Plan(row, config, event))
    return plans, list(lost.values())


async def _skip_superseded(pg: asyncpg.Connection, plans: list[Plan]) -> None:
    """Take out what a snapshot has read of objects that live events have changed since."""
    listed = [
        plan
        for plan in plans
        if plan.event.origin == "snapshot"
        and plan.row.kind == QUEUE_EVENT
        and plan.row.replay_id is None  # who replays it wants it sent
    ]
    asked = [
        (plan.row.source_id, plan.event)
        for plan in listed
        if plan.event.object_id is not None and plan.event.created is not None
    ]
    if not asked:
        return
    superseded = await queue.find_superseded(pg, asked)
    for plan in listed:
        if plan.row.inbox_id in superseded:
            plan.verdict = Skip("superseded")


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
