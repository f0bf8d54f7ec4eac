"""What can only be seen while it happens: lost batches, held lanes, backlog, takeovers."""

from __future__ import annotations

import asyncio
import time

import asyncpg

from tests.faults.world import World

_LOOK_SECONDS = 0.25
# A busy machine may be late by so much; what is wedged stays so for good.
_SLACK_SECONDS = 20.0


class Watch:
    """One connection to the primary, made again whenever it breaks."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.lost: set[str] = set()
        """Events of batches whose process was gone before it settled them."""
        self.put_aside: set[str] = set()
        """Events with a record that Kafka did not acknowledge."""
        self.violations: set[str] = set()
        self.takeovers: list[float] = []
        """Seconds from the death of a process until the last of its lost batches was settled."""
        self.backlog: list[tuple[float, int]] = []
        """Unix seconds, and the rows of the queue that nothing keeps waiting."""
        self._dead_notes: dict[str, float] = {}
        self._up_since = time.time()

    async def run(self) -> None:
        """Never returns."""
        while True:
            try:
                pg = await self._world.postgres.connect()
            except (OSError, asyncpg.PostgresError, TimeoutError, asyncpg.InterfaceError):
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            self._up_since = time.time()
            try:
                while True:
                    async with asyncio.timeout(15):
                        await self.look(pg)
                    await asyncio.sleep(_LOOK_SECONDS)
            except (OSError, asyncpg.PostgresError, TimeoutError, asyncpg.InterfaceError):
                continue
            finally:
                pg.terminate()

    async def look(self, pg: asyncpg.Connection) -> None:
        lost = await pg.fetch(
            """
            SELECT n.process_id::text, i.event_id FROM relay.batch_note n
            LEFT JOIN relay.queue q ON q.number = ANY (n.numbers)
            LEFT JOIN relay.inbox i ON i.id = q.inbox_id AND i.received_at = q.received_at
            WHERE NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = n.backend_pid)
            """
        )
        self.lost |= {row["event_id"] for row in lost if row["event_id"]}
        self._note_takeovers({row["process_id"] for row in lost})
        put_aside = await pg.fetch(
            """
            SELECT i.event_id FROM relay.queue q
            JOIN relay.inbox i ON i.id = q.inbox_id AND i.received_at = q.received_at
            WHERE q.visible_at IS NOT NULL AND q.last_error_code IS NOT NULL
            """
        )
        self.put_aside |= {row["event_id"] for row in put_aside}
        self.backlog.append((time.time(), await pg.fetchval("SELECT count(*) FROM relay.queue")))
        await self._look_for_held_lanes(pg)

    def _note_takeovers(self, dead: set[str]) -> None:
        now = time.time()
        for process in dead - self._dead_notes.keys():
            self._dead_notes[process] = now
        for process in self._dead_notes.keys() - dead:
            self.takeovers.append(now - self._dead_notes.pop(process))

    async def _look_for_held_lanes(self, pg: asyncpg.Connection) -> None:
        """A transaction with lanes in its hand that is older than a frozen one may become."""
        lane = self._world.lane
        limit = lane.frozen_seconds + lane.fence_seconds + _SLACK_SECONDS
        # While the server was away nobody could end anything.
        if time.time() - self._up_since < limit:
            return
        held = await pg.fetch(
            """
            SELECT a.pid, a.state, clock_timestamp() - a.xact_start AS age
            FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
            WHERE l.relation = 'relay.lane'::regclass AND l.mode = 'RowShareLock' AND l.granted
              AND clock_timestamp() - a.xact_start > make_interval(secs => $1)
            """,
            limit,
        )
        self.violations |= {
            f"backend {row['pid']} ({row['state']}) held lanes for more than {limit:.0f} s"
            for row in held
        }
        notes = await pg.fetch(
            """
            SELECT process_id::text FROM relay.batch_note
            WHERE clock_timestamp() - started_at > make_interval(secs => $1)
            """,
            2 * limit,
        )
        self.violations |= {
            f"a batch of process {row['process_id']} stayed open for more than {2 * limit:.0f} s"
            for row in notes
        }
