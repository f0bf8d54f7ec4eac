"""What leaves the queue leaves a proof; what stays says why."""

from __future__ import annotations

import uuid

import asyncpg
import pytest

from relay.core.routing import LANES
from relay.store import queue, receipts
from relay.store.queue import Parking
from relay.store.receipts import Receipt, Settled
from tests.store.rows import bury, deliver, fail, new_event, row_of, states, store

PLACE = Receipt("customer", 2, 2**40, '{"id":"cus_1"}', "u")


async def test_a_batch_is_settled_in_one_statement(pg: asyncpg.Connection, source_id: int) -> None:
    one, two, three = await store(pg, *(new_event(source_id) for _ in range(3)))
    rows = [await row_of(pg, each) for each in (one, two, three)]
    note = uuid.uuid4()
    await queue.write_note(pg, note, uuid.uuid4(), 1, rows)
    settled = [
        Settled(rows[0], (PLACE, Receipt("invoice_lines", 0, 0, "{}", "d"))),
        Settled(rows[1], (), "livemode_mismatch"),
    ]
    await receipts.settle(pg, settled, note)
    assert await states(pg, one, two, three) == ["delivered", "skipped", "pending"]
    assert await pg.fetchval("SELECT count(*) FROM relay.batch_note") == 0
    found = await pg.fetch(
        'SELECT record, topic, partition, "offset", key, op FROM relay.deliveries ORDER BY record'
    )
    assert [tuple(row) for row in found] == [
        (0, "customer", 2, 2**40, '{"id":"cus_1"}', "u"),
        (1, "invoice_lines", 0, 0, "{}", "d"),
    ]


async def test_nothing_to_settle_takes_the_note_away(
    pg: asyncpg.Connection, source_id: int
) -> None:
    (stored,) = await store(pg, new_event(source_id))
    note = uuid.uuid4()
    await queue.write_note(pg, note, uuid.uuid4(), 1, [await row_of(pg, stored)])
    await receipts.settle(pg, [], note)
    assert await pg.fetchval("SELECT count(*) FROM relay.batch_note") == 0


async def test_what_somebody_else_settled_is_not_settled_again(
    pg: asyncpg.Connection, source_id: int
) -> None:
    one, two = await store(pg, new_event(source_id), new_event(source_id))
    rows = [await row_of(pg, each) for each in (one, two)]
    await deliver(pg, one)
    with pytest.raises(RuntimeError, match="1 of 2"):
        async with pg.transaction():
            await receipts.settle(pg, [Settled(row, (PLACE,)) for row in rows], None)
    assert await states(pg, one, two) == ["delivered", "pending"]
    assert await pg.fetchval("SELECT count(*) FROM relay.receipt") == 1


async def test_a_delivery_without_a_proof_is_refused(
    pg: asyncpg.Connection, source_id: int
) -> None:
    """It would leave the event in no state at all."""
    (stored,) = await store(pg, new_event(source_id))
    with pytest.raises(ValueError, match="nothing proves"):
        await receipts.settle(pg, [Settled(await row_of(pg, stored), ())], None)
    assert await states(pg, stored) == ["pending"]


async def test_an_event_of_more_records_than_a_smallint_counts(
    pg: asyncpg.Connection, source_id: int
) -> None:
    """An invoice with 40,000 lines."""
    (stored,) = await store(pg, new_event(source_id))
    await deliver(pg, stored, records=40_001)
    assert await pg.fetchval("SELECT max(record) FROM relay.deliveries") == 40_000


async def test_keys_with_anything_in_them(pg: asyncpg.Connection, source_id: int) -> None:
    """JSON escapes what text cannot hold; what is left is any text, of any length."""
    keys = ['{"id":"\\u0000"}', '{"id":"\\ud800"}', '{"id":"é\U0001f600\'"}', "k" * 100_000]
    stored = await store(pg, *(new_event(source_id) for _ in keys))
    settled = [
        Settled(await row_of(pg, each), (Receipt("t", 0, 0, key, ""),))
        for each, key in zip(stored, keys, strict=True)
    ]
    await receipts.settle(pg, settled, None)
    found = await pg.fetch("SELECT key FROM relay.deliveries ORDER BY inbox_id")
    assert [row["key"] for row in found] == keys


@pytest.mark.parametrize("error", ["a\0b", "\ud800 \udfff", "x" * 1_000_000, ""])
async def test_errors_that_quote_anything(
    pg: asyncpg.Connection, source_id: int, error: str
) -> None:
    """A message that cannot be stored would have its row tried again for ever."""
    one, two = await store(pg, new_event(source_id), new_event(source_id, object_id="cus_2"))
    row = await row_of(pg, one)
    await queue.park(pg, [Parking(row, 0.0, "transform_error", error, 1)])
    await queue.halt(pg, row, "no_route", error)
    death = receipts.Death(await row_of(pg, two), "evt", None, "no_route", error, 1, None)
    await receipts.bury(pg, [death])
    assert await states(pg, one, two) == ["retrying", "dead"]
    said = await pg.fetchval("SELECT last_error FROM relay.events WHERE id = $1", one)
    assert len(said) < 5000
    assert await pg.fetchval("SELECT error FROM relay.dead_letters") == said
    assert await pg.fetchval("SELECT halted_error FROM relay.source") == said


async def test_counts_at_their_ends(pg: asyncpg.Connection, source_id: int) -> None:
    (stored,) = await store(pg, new_event(source_id))
    row = await row_of(pg, stored)
    await queue.park(pg, [Parking(row, 1e9, "code", "", 32_000)])
    assert (await row_of(pg, stored)).attempts == 32_000
    await pg.execute("UPDATE relay.queue SET crashes = 32000, alone = true")
    note = uuid.uuid4()
    await queue.write_note(pg, note, uuid.uuid4(), 1, [row])
    async with pg.transaction():
        batch = await queue.take_dead_note(pg, note, 3)
    assert batch is not None
    assert [each.crashes for each in batch.dead] == [32_000]


async def test_a_row_behind_a_parked_one_of_its_key_waits(
    pg: asyncpg.Connection, source_id: int
) -> None:
    first, second = await store(pg, new_event(source_id), new_event(source_id))
    lane = (source_id, (await row_of(pg, first)).lane)
    await fail(pg, first)
    assert await queue.read_lanes(pg, [lane], 10) == []
    async with pg.transaction():
        # The lane is claimed, since the second row is visible, and nothing is read from it.
        assert await queue.lock_lanes(pg, (0, 0), LANES) == [lane]
    await pg.execute("UPDATE relay.queue SET visible_at = now() WHERE inbox_id = $1", first)
    rows = await queue.read_lanes(pg, [lane], 10)
    assert [row.inbox_id for row in rows] == [first, second]


async def test_a_copy_says_what_its_event_died_of_last(
    pg: asyncpg.Connection, source_id: int
) -> None:
    (stored,) = await store(pg, new_event(source_id))
    await bury(pg, stored, copy=True, code="first")
    await pg.execute("UPDATE relay.dead_letter SET replayed_at = now()")
    await pg.execute(
        "INSERT INTO relay.dead_letter (source_id, inbox_id, received_at, event_id, error_code,"
        " error, attempts) SELECT source_id, inbox_id, received_at, event_id, 'second', '', 3"
        " FROM relay.dead_letter"
    )
    heads = await receipts.read_dead_letters(pg, [stored, stored + 1])
    assert {key: (head.code, head.attempts) for key, head in heads.items()} == {
        stored: ("second", 3)
    }


async def test_a_copy_beside_the_replay_of_its_event(
    pg: asyncpg.Connection, source_id: int
) -> None:
    """Both are read in one batch, and the replay keeps its id."""
    (stored,) = await store(pg, new_event(source_id))
    await bury(pg, stored, copy=True)
    copy = await row_of(pg, stored, kind=1)
    await pg.execute(
        "INSERT INTO relay.queue (source_id, lane, number, inbox_id, received_at, key_hash, bytes,"
        " replay_id) SELECT source_id, lane, nextval('relay.arrival'), inbox_id, received_at, 0, 0,"
        " 'rpl_1' FROM relay.queue"
    )
    again = await row_of(pg, stored)
    for rows in ([copy, again], [again, copy]):
        assert (await queue.read_events(pg, rows))[stored].replay_id == "rpl_1"


async def test_a_source_that_is_deleted_is_not_claimed(
    pg: asyncpg.Connection, source_id: int
) -> None:
    await store(pg, new_event(source_id))
    async with pg.transaction():
        assert len(await queue.lock_lanes(pg, (0, 0), LANES)) == 1
    for column in ("deleted_at", "paused_at"):
        await pg.execute(f"UPDATE relay.source SET {column} = now()")
        async with pg.transaction():
            assert await queue.lock_lanes(pg, (0, 0), LANES) == []
        await pg.execute(f"UPDATE relay.source SET {column} = NULL")
