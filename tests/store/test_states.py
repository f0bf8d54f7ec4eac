"""Each event is in exactly one state: every way through, and many ways at random."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import asyncpg
import pytest

from relay.store import deadletters, events, queue
from relay.store.engine import Database
from relay.store.queue import Parking
from tests.store.rows import (
    OPERATOR,
    bury,
    deliver,
    fail,
    leave_out,
    letters_of,
    new_event,
    put,
    row_of,
    states,
    store,
)


class Desk:
    """An operator's hand."""

    def __init__(self, database: Database, pg: asyncpg.Connection) -> None:
        self._database = database
        self._pg = pg

    async def replay(self, *inbox_ids: int) -> deadletters.Replay:
        letters = await letters_of(self._pg, *inbox_ids)
        async with self._database.begin() as connection:
            return await deadletters.replay(connection, letters, OPERATOR)

    async def discard(self, *inbox_ids: int) -> int:
        letters = await letters_of(self._pg, *inbox_ids)
        async with self._database.begin() as connection:
            return await deadletters.discard(connection, letters, OPERATOR)

    async def retry(self, *inbox_ids: int) -> int:
        async with self._database.begin() as connection:
            return await events.retry(connection, inbox_ids, OPERATOR)

    async def skip(self, *inbox_ids: int) -> int:
        async with self._database.begin() as connection:
            return await events.skip(connection, inbox_ids, OPERATOR)


@pytest.fixture
def desk(database: Database, pg: asyncpg.Connection) -> Desk:
    return Desk(database, pg)


async def view(pg: asyncpg.Connection, inbox_id: int) -> dict[str, Any]:
    """The one row of an event in relay.events."""
    rows = await pg.fetch("SELECT * FROM relay.events WHERE id = $1", inbox_id)
    assert len(rows) == 1
    return dict(rows[0])


async def reach(pg: asyncpg.Connection, inbox_id: int, **expected: Any) -> None:
    """Fails unless these columns of the event are so."""
    found = await view(pg, inbox_id)
    assert {name: found[name] for name in expected} == expected


# One by one


async def test_a_delivery(pg: asyncpg.Connection, source_id: int) -> None:
    (stored,) = await store(pg, new_event(source_id))
    nothing = {"settled_at": None, "skip_reason": None, "last_error_code": None}
    await reach(pg, stored, state="pending", attempts=0, next_attempt_at=None, **nothing)
    await deliver(pg, stored)
    found = await view(pg, stored)
    assert (found["state"], found["skip_reason"]) == ("delivered", None)
    assert found["settled_at"] >= found["received_at"]


async def test_a_retry_that_helps(pg: asyncpg.Connection, source_id: int) -> None:
    (stored,) = await store(pg, new_event(source_id))
    await fail(pg, stored)
    failure = {"last_error_code": "transform_error", "last_error": "it broke"}
    await reach(pg, stored, state="retrying", attempts=1, **failure)
    assert (await view(pg, stored))["next_attempt_at"] is not None
    await fail(pg, stored)
    await reach(pg, stored, state="retrying", attempts=2)
    await deliver(pg, stored)
    await reach(pg, stored, state="delivered", attempts=2, next_attempt_at=None, last_error=None)
    failures = await pg.fetchval("SELECT count(*) FROM relay.attempt WHERE inbox_id = $1", stored)
    assert failures == 2


async def test_an_outage_is_no_failure(pg: asyncpg.Connection, source_id: int) -> None:
    (stored,) = await store(pg, new_event(source_id))
    parking = Parking(await row_of(pg, stored), 5.0, "kafka_away", "timed out", 0)
    await queue.park(pg, [parking])
    await reach(pg, stored, state="pending", attempts=0, last_error_code="kafka_away")
    assert await pg.fetchval("SELECT count(*) FROM relay.attempt") == 0


async def test_from_pending_over_retrying_dead_and_a_replay_to_delivered(
    pg: asyncpg.Connection, source_id: int, desk: Desk
) -> None:
    (stored,) = await store(pg, new_event(source_id))
    await fail(pg, stored)
    await bury(pg, stored)
    await reach(pg, stored, state="dead", attempts=2, last_error_code="too_large")
    replayed = await desk.replay(stored)
    assert len(replayed.queued) == 1
    await reach(pg, stored, state="pending", attempts=0, last_error_code=None)
    await deliver(pg, stored, records=3)
    await reach(pg, stored, state="delivered", attempts=0)
    found = await pg.fetch("SELECT record, replay_id FROM relay.deliveries ORDER BY record")
    assert [tuple(row) for row in found] == [(n, replayed.replay_id) for n in range(3)]


async def test_skipped_as_unselected(pg: asyncpg.Connection, source_id: int) -> None:
    (stored,) = await store(pg, new_event(source_id))
    await leave_out(pg, stored)
    await reach(pg, stored, state="skipped", skip_reason="unselected")
    assert (await view(pg, stored))["settled_at"] is not None
    assert await pg.fetchval("SELECT count(*) FROM relay.deliveries") == 0


async def test_a_discarded_dead_letter(pg: asyncpg.Connection, source_id: int, desk: Desk) -> None:
    (stored,) = await store(pg, new_event(source_id))
    await bury(pg, stored)
    assert await desk.discard(stored) == 1
    await reach(pg, stored, state="skipped", skip_reason="discarded")


async def test_skipped_by_an_operator(pg: asyncpg.Connection, source_id: int, desk: Desk) -> None:
    waiting, retrying = await store(pg, new_event(source_id), new_event(source_id))
    await fail(pg, retrying)
    assert await desk.skip(waiting, retrying) == 2
    for each in (waiting, retrying):
        await reach(pg, each, state="skipped", skip_reason="discarded")


async def test_dead_then_replayed_then_dead_again(
    pg: asyncpg.Connection, source_id: int, desk: Desk
) -> None:
    (stored,) = await store(pg, new_event(source_id))
    await bury(pg, stored, code="too_large")
    await desk.replay(stored)
    await bury(pg, stored, code="no_route")
    await reach(pg, stored, state="dead", last_error_code="no_route")
    letters = await pg.fetch("SELECT error_code, replayed_at FROM relay.dead_letters ORDER BY id")
    assert [row["error_code"] for row in letters] == ["too_large", "no_route"]
    assert [row["replayed_at"] is None for row in letters] == [False, True]


@pytest.mark.parametrize("on_arrival", [False, True])
async def test_the_copy_for_the_topic_does_not_change_the_state(
    pg: asyncpg.Connection, source_id: int, on_arrival: bool
) -> None:
    dead = {"dead_code": "thin_payload", "dead_copy": True} if on_arrival else {}
    (stored,) = await store(pg, new_event(source_id, **dead))
    if not on_arrival:
        await bury(pg, stored, copy=True)
    await reach(pg, stored, state="dead")
    parking = Parking(await row_of(pg, stored, kind=1), 5.0, "kafka_away", "timed out", 1)
    await queue.park(pg, [parking])
    await reach(pg, stored, state="dead")
    await deliver(pg, stored, kind=1)
    await reach(pg, stored, state="dead")
    copies = await pg.fetch("SELECT kind, inbox_id FROM relay.deliveries")
    assert [tuple(row) for row in copies] == [("dead_letter", stored)]


async def test_a_copy_that_is_late_does_not_change_the_state(
    pg: asyncpg.Connection, source_id: int, desk: Desk
) -> None:
    first, second = await store(pg, new_event(source_id), new_event(source_id))
    await bury(pg, first, second, copy=True)
    await desk.replay(first)
    await desk.discard(second)
    await deliver(pg, first)
    await deliver(pg, first, kind=1)
    await deliver(pg, second, kind=1)
    assert await states(pg, first, second) == ["delivered", "skipped"]


async def test_dead_again_while_the_first_copy_waits(
    pg: asyncpg.Connection, source_id: int, desk: Desk
) -> None:
    (stored,) = await store(pg, new_event(source_id))
    await bury(pg, stored, copy=True)
    await desk.replay(stored)
    await bury(pg, stored, copy=True)
    assert await states(pg, stored) == ["dead"]
    assert await pg.fetchval("SELECT count(*) FROM relay.queue WHERE kind = 1") == 1


async def test_delivered_by_a_replay_after_it_was_skipped(
    pg: asyncpg.Connection, source_id: int
) -> None:
    """And the other way round: the last receipts count."""
    first, second = await store(pg, new_event(source_id), new_event(source_id))
    await leave_out(pg, first)
    await deliver(pg, second, records=2)
    for stored in (first, second):
        await _queue_again(pg, stored)
        await reach(pg, stored, state="pending")
    await deliver(pg, first, records=2)
    await leave_out(pg, second, "superseded")
    await reach(pg, first, state="delivered", skip_reason=None)
    await reach(pg, second, state="skipped", skip_reason="superseded")


async def _queue_again(pg: asyncpg.Connection, stored: int) -> None:
    await pg.execute(
        """
        INSERT INTO relay.queue (source_id, lane, number, inbox_id, received_at, key_hash, bytes)
        SELECT source_id, 0, nextval('relay.arrival'), id, received_at, 0, 0
        FROM relay.inbox WHERE id = $1
        """,
        stored,
    )


async def test_a_delivery_of_many_records_is_one_row(
    pg: asyncpg.Connection, source_id: int
) -> None:
    """An invoice with 40,000 lines: more than a smallint can count."""
    (stored,) = await store(pg, new_event(source_id))
    await deliver(pg, stored, records=40_001)
    await reach(pg, stored, state="delivered")
    count, last = await pg.fetchrow("SELECT count(*), max(record) FROM relay.deliveries")  # type: ignore[misc]
    assert (count, last) == (40_001, 40_000)


# At random


class Life:
    """Events and the state that each should be in."""

    def __init__(self, pg: asyncpg.Connection, desk: Desk, source_id: int, seed: int) -> None:
        self.pg = pg
        self.desk = desk
        self.source_id = source_id
        self.random = random.Random(seed)
        self.expected: dict[int, str] = {}
        self.unusable: set[int] = set()
        self.copies: set[int] = set()
        self.records = 0

    def pick(self, *among: str) -> int | None:
        fit = [each for each, state in self.expected.items() if state in among]
        return self.random.choice(fit) if fit else None

    async def arrive(self) -> None:
        (stored,) = await store(self.pg, new_event(self.source_id))
        self.expected[stored] = "pending"

    async def arrive_dead(self) -> None:
        copy = self.random.random() < 0.5
        usable = self.random.random() < 0.5
        fields = {} if usable else {"event_type": None, "object_id": None}
        event = new_event(self.source_id, dead_code="no_use", dead_copy=copy, **fields)
        (stored,) = await store(self.pg, event)
        self.expected[stored] = "dead"
        if copy:
            self.copies.add(stored)
        if not usable:
            self.unusable.add(stored)

    async def arrive_again(self) -> None:
        if self.expected:
            row = await self.pg.fetchrow(
                "SELECT event_id FROM relay.inbox WHERE id = $1", self.pick(*events.STATES)
            )
            assert row is not None
            assert await put(self.pg, new_event(self.source_id, row["event_id"])) == [False]

    async def fail(self) -> None:
        if stored := self.pick("pending", "retrying"):
            await fail(self.pg, stored, seconds=self.random.choice([0.0, 60.0]))
            self.expected[stored] = "retrying"

    async def wait_for_kafka(self) -> None:
        if stored := self.pick("pending", "retrying"):
            row = await row_of(self.pg, stored)
            parking = Parking(row, 1.0, "kafka_away", "timed out", row.attempts)
            await queue.park(self.pg, [parking])

    async def deliver(self) -> None:
        if stored := self.pick("pending", "retrying"):
            records = self.random.randint(1, 3)
            await deliver(self.pg, stored, records)
            self.expected[stored] = "delivered"
            self.records += records

    async def leave_out(self) -> None:
        if stored := self.pick("pending", "retrying"):
            await leave_out(self.pg, stored)
            self.expected[stored] = "skipped"

    async def bury(self) -> None:
        if stored := self.pick("pending", "retrying"):
            copy = self.random.random() < 0.5
            await bury(self.pg, stored, copy=copy)
            self.expected[stored] = "dead"
            if copy:
                self.copies.add(stored)

    async def send_copy(self) -> None:
        if self.copies:
            stored = self.random.choice(sorted(self.copies))
            self.copies.discard(stored)
            await deliver(self.pg, stored, kind=1)
            self.records += 1

    async def replay(self) -> None:
        if stored := self.pick("dead"):
            result = await self.desk.replay(stored)
            assert bool(result.refused) == (stored in self.unusable)
            if result.queued:
                self.expected[stored] = "pending"

    async def discard(self) -> None:
        if stored := self.pick("dead"):
            assert await self.desk.discard(stored) == 1
            self.expected[stored] = "skipped"

    async def retry(self) -> None:
        if stored := self.pick("pending", "retrying"):
            assert await self.desk.retry(stored) == 1

    async def skip(self) -> None:
        if stored := self.pick("pending", "retrying"):
            assert await self.desk.skip(stored) == 1
            self.expected[stored] = "skipped"

    async def come_too_late(self) -> None:
        if stored := self.pick("delivered", "skipped"):
            assert await self.desk.skip(stored) == 0
            assert await self.desk.retry(stored) == 0
            assert await self.desk.discard(stored) == 0

    async def check(self) -> None:
        assert await self._of("events") == self.expected
        waiting = {"pending", "retrying"}
        assert await self._of("pending_events") == self._narrowed(waiting)
        assert await self._of("failed_events") == self._narrowed({"retrying", "dead"})
        for state in events.STATES:
            rows = await self.pg.fetch("SELECT id FROM relay.events WHERE state = $1", state)
            assert {row["id"] for row in rows} == set(self._narrowed({state}))
        count = Counter(self.expected.values())
        lag = await self.pg.fetchrow("SELECT * FROM relay.lag")
        assert lag is not None
        assert {name: lag[name] for name in ("pending", "retrying", "dead")} == {
            name: count[name] for name in ("pending", "retrying", "dead")
        }
        assert (lag["oldest_pending_seconds"] > 0) == bool(self._narrowed(waiting))
        assert await self.pg.fetchval("SELECT count(*) FROM relay.deliveries") == self.records
        assert await self.pg.fetchval("SELECT count(*) FROM relay.inbox") == len(self.expected)

    async def _of(self, name: str) -> dict[int, str]:
        rows = await self.pg.fetch(f"SELECT id, state FROM relay.{name}")
        assert len({row["id"] for row in rows}) == len(rows)
        return {row["id"]: row["state"] for row in rows}

    def _narrowed(self, states: set[str]) -> dict[int, str]:
        return {each: state for each, state in self.expected.items() if state in states}


STEPS = (
    *(Life.arrive,) * 4,
    *(Life.arrive_dead, Life.arrive_again),
    *(Life.fail, Life.fail, Life.wait_for_kafka, Life.deliver, Life.leave_out),
    *(Life.bury, Life.bury, Life.send_copy, Life.replay, Life.replay, Life.discard),
    *(Life.retry, Life.skip, Life.come_too_late),
)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_each_event_is_in_one_state(
    pg: asyncpg.Connection, source_id: int, desk: Desk, seed: int
) -> None:
    life = Life(pg, desk, source_id, seed)
    seen: set[str] = set()
    for _ in range(150):
        step = life.random.choice(STEPS)
        await step(life)
        await life.check()
        seen |= set(life.expected.values())
    assert seen == set(events.STATES)
