"""Dead letters: found, sent again, given up."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from relay.core.errors import ConfigError
from relay.core.event import peek
from relay.core.routing import lane_of, record_key
from relay.core.source import SourceConfig
from relay.store import deadletters, inbox, queue, sources
from relay.store.deadletters import Replay, Run
from relay.store.engine import Database
from relay.store.events import Filter
from tests.store.rows import (
    OPERATOR,
    bury,
    deliver,
    leave_out,
    letters_of,
    new_event,
    put,
    row_of,
    states,
    store,
)


async def replay(database: Database, *letters: int) -> Replay:
    async with database.begin() as connection:
        return await deadletters.replay(connection, letters, OPERATOR)


async def found(database: Database, *, open_only: bool = True, **wanted: Any) -> list[Any]:
    """The event ids of the dead letters that fit, the newest first."""
    async with database.begin() as connection:
        rows = await deadletters.list_dead_letters(
            connection, Filter(**wanted), open_only=open_only
        )
        if open_only:
            ids = await deadletters.find_ids(connection, Filter(**wanted))
            assert sorted(ids) == sorted(row["id"] for row in rows)
    return [row["event_id"] for row in rows]


async def dead(pg: asyncpg.Connection, *events: inbox.NewEvent, **how: Any) -> list[int]:
    """Store events and bury them; their dead letters, in order."""
    stored = await store(pg, *events)
    await bury(pg, *stored, **how)
    by_event = {
        row["inbox_id"]: row["id"] for row in await pg.fetch("SELECT * FROM relay.dead_letter")
    }
    return [by_event[each] for each in stored]


# Looking


async def test_filters_fit_together(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    config = SourceConfig(source_id=0, public_id="", name="other", insecure=True)
    async with database.begin() as connection:
        made, _ = await sources.create(
            connection, config, sealed_secrets=[], sealed_stripe_key=None
        )
    await dead(pg, new_event(source_id, "a", event_type="invoice.paid", object_id="in_1"))
    await dead(pg, new_event(source_id, "b", event_type="in_oice.paid"), code="no_route")
    await dead(pg, new_event(made.config.source_id, "c", event_type="invoice.paid"))
    await inbox.keep_refused(pg, source_id, "signature_wrong", "", b"x")
    assert await found(database) == [None, "c", "b", "a"]
    assert await found(database, source="shop") == [None, "b", "a"]
    assert await found(database, type="invoice.*") == ["c", "a"]
    assert await found(database, type="in_oice.*") == ["b"]
    assert await found(database, object="in_1") == ["a"]
    assert await found(database, error="no_route") == ["b"]
    assert await found(database, error="signature_wrong") == [None]
    assert await found(database, event_id="c") == ["c"]
    assert await found(database, state="dead", event_id="c") == ["c"]
    assert await found(database, event_id="c", source="shop") == []
    assert await found(database, type="\ud800") == []
    for state in ("pending", "delivered"):
        with pytest.raises(ConfigError, match="leave the state out"):
            await found(database, state=state)


async def test_no_filter_is_passed_over(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    """A filter that was passed over would have a bulk replay mean everything."""
    await dead(pg, new_event(source_id, "a"), new_event(source_id, "b"))
    moment = await pg.fetchval("SELECT max(dead_at) FROM relay.dead_letter")
    misses = {
        "source": "x",
        "type": "x",
        "object": "x",
        "since": moment + timedelta(seconds=1),
        "until": moment - timedelta(seconds=1),
        "error": "x",
        "event_id": "x",
        "inbox_id": 10**9,
    }
    assert set(misses) | {"state"} == set(Filter.__struct_fields__)
    for name, value in misses.items():
        assert await found(database, **{name: value}) == [], name
    (stored,) = {await pg.fetchval("SELECT inbox_id FROM relay.dead_letter WHERE event_id = 'b'")}
    assert await found(database, inbox_id=stored) == ["b"]


async def test_a_time_is_that_of_the_death(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    await dead(pg, new_event(source_id, "a"))
    await dead(pg, new_event(source_id, "b"))
    first, second = [
        row["dead_at"]
        for row in await pg.fetch("SELECT dead_at FROM relay.dead_letter ORDER BY id")
    ]
    assert await found(database, since=second) == ["b"]
    assert await found(database, since=first, until=second) == ["a"]


async def test_lists_go_on_below_an_id_and_show_closed_ones_on_demand(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    letters = await dead(pg, *(new_event(source_id, f"evt_{n}") for n in range(5)))
    await replay(database, letters[3])
    async with database.begin() as connection:
        await deadletters.discard(connection, [letters[1]], OPERATOR)
        first = await deadletters.list_dead_letters(connection, Filter(), limit=2)
        rest = await deadletters.list_dead_letters(
            connection, Filter(), limit=9, before_id=first[-1]["id"]
        )
    assert [row["id"] for row in first + rest] == [letters[4], letters[2], letters[0]]
    assert len(await found(database, open_only=False)) == 5


async def test_one_is_shown_with_its_body(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    (letter,) = await dead(pg, new_event(source_id, "a", body=b"\xff"))
    async with database.begin() as connection:
        shown = await deadletters.show_dead_letter(connection, letter)
        assert await deadletters.show_dead_letter(connection, letter + 1) is None
    assert shown is not None
    assert (shown["event_id"], shown["body_text"]) == ("a", "\\377")


# Sending again


def stripe_event(event_id: str, object_type: str, **fields: Any) -> bytes:
    event = {
        "id": event_id,
        "object": "event",
        "type": f"{object_type}.updated",
        "data": {"object": {"object": object_type, **fields}},
    }
    return json.dumps(event).encode()


async def test_a_replay_goes_to_the_end_of_the_line_of_its_object(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    first, second, later = await store(pg, *(new_event(source_id) for _ in range(3)))
    await bury(pg, second, first)
    letters = await letters_of(pg, second, first)
    result = await replay(database, *letters)
    lane = (source_id, (await row_of(pg, later)).lane)
    rows = await queue.read_lanes(pg, [lane], 10)
    # Among themselves in the order of their arrival, whatever the order of their deaths.
    assert [row.inbox_id for row in rows] == [later, first, second]
    assert {row.key_hash for row in rows} == {rows[0].key_hash}
    assert [row.replay_id for row in rows] == [None, result.replay_id, result.replay_id]
    assert [row.number for row in rows] == sorted(row.number for row in rows)
    assert sorted(result.queued) == sorted(letters)
    assert (result.refused, result.overtaken) == ({}, ())
    again = await queue.read_events(pg, rows)
    assert again[first].replay_id == result.replay_id
    assert again[later].replay_id is None


@pytest.mark.parametrize(
    "body",
    [
        stripe_event("evt_1", "balance"),
        stripe_event("evt_1", "cash_balance", customer="cus_9"),
        stripe_event("evt_1", "something_new"),
        stripe_event("evt_1", "customer", id="cus_1"),
    ],
    ids=["of a singleton", "of a customer", "of the event", "of the object"],
)
async def test_a_replay_stands_in_the_line_of_its_key(
    database: Database, pg: asyncpg.Connection, source_id: int, body: bytes
) -> None:
    """Whatever the key is made of; objects without an id have it in the body."""
    seen = peek(body)
    lane, key_hash = lane_of(record_key(seen))
    event = new_event(
        source_id,
        "evt_1",
        body=body,
        event_type=seen.event_type,
        object_id=seen.object_id,
        lane=lane,
        key_hash=key_hash,
    )
    (letter,) = await dead(pg, event)
    assert (await replay(database, letter)).queued == (letter,)
    row = await row_of(pg, await pg.fetchval("SELECT id FROM relay.inbox"))
    assert (row.lane, row.key_hash, row.bytes) == (lane, key_hash, len(body))


async def test_the_same_replay_twice_adds_nothing(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    letters = await dead(pg, new_event(source_id), new_event(source_id))
    assert len((await replay(database, *letters, *letters)).queued) == 2
    again = await replay(database, *letters)
    assert (again.queued, again.refused, again.overtaken) == ((), {}, ())
    assert await pg.fetchval("SELECT count(*) FROM relay.queue") == 2
    assert (await replay(database)).queued == ()


async def test_two_replays_at_once_queue_an_event_once(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    letters = await dead(pg, *(new_event(source_id) for _ in range(30)))
    results = await asyncio.gather(replay(database, *letters), replay(database, *reversed(letters)))
    assert sorted(results[0].queued + results[1].queued) == letters
    assert await pg.fetchval("SELECT count(*) FROM relay.queue") == 30


async def test_a_replay_and_a_discard_at_once_close_it_once(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    letters = await dead(pg, *(new_event(source_id) for _ in range(20)))

    async def discard() -> int:
        async with database.begin() as connection:
            return await deadletters.discard(connection, letters, OPERATOR)

    replayed, discarded = await asyncio.gather(replay(database, *letters), discard())
    assert len(replayed.queued) + discarded == 20
    found = await pg.fetch("SELECT state, count(*) FROM relay.events GROUP BY state")
    counts = {row["state"]: row["count"] for row in found}
    assert counts.get("pending", 0) == len(replayed.queued)
    assert counts.get("skipped", 0) == discarded


async def test_what_cannot_be_sent_is_refused_with_the_reason(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    await inbox.keep_refused(pg, source_id, "signature_wrong", "", b"x")
    sample = await pg.fetchval("SELECT id FROM relay.dead_letter")
    unusable = {"event_type": None, "object_id": None, "dead_code": "thin_payload"}
    garbage = {"object_id": None, "dead_code": "broken", "body": b"no json"}
    thin, broken, good = await store(
        pg,
        new_event(source_id, **unusable),
        new_event(source_id, **garbage),
        new_event(source_id, dead_code="too_large"),
    )
    letters = await letters_of(pg, thin, broken, good)
    result = await replay(database, sample, *letters)
    assert result.queued == (letters[2],)
    assert result.refused == {
        sample: "a refused request: it never was an event of yours",
        letters[0]: "no usable event (thin_payload): discard it",
        letters[1]: "no usable event (invalid_json): discard it",
    }
    assert await states(pg, thin, broken, good) == ["dead", "dead", "pending"]


async def test_what_has_no_body_any_more_is_refused(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    (letter,) = await dead(pg, new_event(source_id))
    partition = await pg.fetchval("SELECT tableoid::regclass::text FROM relay.inbox")
    await pg.execute(f"ALTER TABLE relay.inbox DETACH PARTITION {partition}")
    result = await replay(database, letter)
    assert result.refused == {letter: "its body is gone: the retention has passed"}
    async with database.begin() as connection:
        assert await deadletters.discard(connection, [letter], OPERATOR) == 1


async def test_what_newer_events_have_overtaken_is_told(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    """Consumers will see an older state of the object once more."""
    old, older = await store(pg, new_event(source_id), new_event(source_id, object_id="cus_2"))
    await bury(pg, old, older)
    same, other_object, other_account, waiting = await store(
        pg,
        new_event(source_id),
        new_event(source_id, object_id="cus_3"),
        new_event(source_id, object_id="cus_2", account="acct_1"),
        new_event(source_id, object_id="cus_2"),
    )
    for each in (same, other_object, other_account):
        await deliver(pg, each)
    letters = await letters_of(pg, old, older)
    async with database.begin() as connection:
        result = await deadletters.replay(connection, letters, OPERATOR)
        await connection.rollback()
    assert result.overtaken == (letters[0],)
    await deliver(pg, waiting)
    assert (await replay(database, *letters)).overtaken == tuple(letters)


async def test_what_came_earlier_or_was_skipped_has_not_overtaken(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    before, buried, after = await store(pg, *(new_event(source_id) for _ in range(3)))
    await bury(pg, buried)
    await deliver(pg, before)
    await leave_out(pg, after)
    assert (await replay(database, *await letters_of(pg, buried))).overtaken == ()


async def test_a_bulk_replay_does_not_read_the_bodies(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    """Thousands of 50 MB would not fit into memory; only what has no object id is looked into."""
    big = b"x" * (8 * 1024 * 1024)
    letters = await dead(pg, *(new_event(source_id, body=big) for _ in range(4)))
    rows = await pg.fetch(
        deadletters._TO_REPLAY.replace(":ids", "$1"),
        letters,
    )
    assert [(row["body"], row["bytes"]) for row in rows] == [(None, len(big))] * 4
    assert len((await replay(database, *letters)).queued) == 4


async def test_replays_are_written_down(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    (letter,) = await dead(pg, new_event(source_id))
    result = await replay(database, letter)
    row = await pg.fetchrow("SELECT who, action, target, reason FROM relay.operator_log")
    assert row is not None
    assert tuple(row) == ("ann@desk", "dead_letter.replay", result.replay_id, "asked to")


# Many


async def prepared(database: Database, **wanted: Any) -> Run:
    async with database.begin() as connection:
        return await deadletters.prepare(connection, Filter(**wanted))


async def begun(database: Database, **wanted: Any) -> Run:
    run = await prepared(database, **wanted)
    async with database.begin() as connection:
        return await deadletters.begin(connection, run, OPERATOR)


async def go_on(database: Database, run: Run, *, limit: int = 1000) -> Run:
    async with database.begin() as connection:
        return await deadletters.queue_some(connection, run, OPERATOR, limit=limit)


async def run_through(database: Database, run: Run, *, limit: int = 1000) -> Run:
    while not run.finished:
        run = await go_on(database, run, limit=limit)
    return run


async def line(pg: asyncpg.Connection) -> list[tuple[int, str | None]]:
    rows = await pg.fetch("SELECT inbox_id, replay_id FROM relay.queue ORDER BY number")
    return [tuple(row) for row in rows]


async def test_a_run_queues_all_in_the_order_of_their_events(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await store(pg, *(new_event(source_id) for _ in range(5)))
    # They died in another order.
    await bury(pg, ids[3], ids[0], ids[4], ids[2], ids[1])
    run = await run_through(database, await begun(database), limit=2)
    assert (run.matched, run.queued, run.refused, run.overtaken) == (5, 5, {}, 0)
    assert await line(pg) == [(each, run.replay_id) for each in ids]
    assert await found(database) == []


async def test_a_run_is_about_what_was_there_when_it_was_prepared(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    other, first, second = await store(
        pg, *(new_event(source_id, event_type=f"{t}.paid") for t in ("plan", "invoice", "invoice"))
    )
    await bury(pg, other, first, second)
    run = await prepared(database, type="invoice.*")
    assert run.matched == 2
    assert await line(pg) == []
    # Of an older event, so that its place in the run is still to come.
    (late,) = await store(pg, new_event(source_id, event_type="invoice.late"))
    async with database.begin() as connection:
        run = await deadletters.begin(connection, run, OPERATOR)
    await bury(pg, late)
    run = await run_through(database, run, limit=1)
    assert run.queued == 2
    assert [each for each, _ in await line(pg)] == [first, second]


async def test_what_dies_again_during_the_run_is_not_sent_by_it_again(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    await dead(pg, *(new_event(source_id) for _ in range(3)))
    run = await go_on(database, await begun(database), limit=2)
    first = (await line(pg))[0][0]
    await bury(pg, first)
    run = await run_through(database, run)
    assert run.queued == 3
    assert first not in [each for each, _ in await line(pg)]
    assert len(await found(database)) == 1


async def test_an_interrupted_run_goes_on_where_the_log_says(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    """Whatever the caller believes: somebody else may have gone on with it."""
    await dead(pg, *(new_event(source_id) for _ in range(4)))
    begin = await begun(database)
    halfway = await go_on(database, begin, limit=2)
    async with database.begin() as connection:
        assert await deadletters.find_run(connection, begin.replay_id) == halfway
        assert await deadletters.find_run(connection, "rpl_other") is None
    assert (await go_on(database, begin, limit=1)).queued == 3
    done = await run_through(database, begin)
    assert (done.queued, done.finished) == (4, True)
    for stale in (begin, halfway, done):
        assert await go_on(database, stale) == done
    assert len(await line(pg)) == 4


async def test_two_that_go_on_with_a_run_at_once_queue_an_event_once(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    await dead(pg, *(new_event(source_id) for _ in range(20)))
    run = await begun(database)
    one, two = await asyncio.gather(*(run_through(database, run, limit=3) for _ in range(2)))
    assert one == two
    assert one.queued == 20
    assert len(await line(pg)) == 20


async def test_the_same_filter_twice_adds_nothing(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    await dead(pg, new_event(source_id), new_event(source_id))
    await run_through(database, await begun(database))
    again = await run_through(database, await begun(database))
    assert (again.matched, again.queued) == (0, 0)
    assert len(await line(pg)) == 2


async def test_a_run_counts_what_it_cannot_send_and_what_was_overtaken(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    await inbox.keep_refused(pg, source_id, "signature_wrong", "", b"x")
    unusable = {"event_type": None, "object_id": None, "dead_code": "thin_payload"}
    await store(pg, *(new_event(source_id, **unusable) for _ in range(2)))
    await dead(pg, new_event(source_id))
    (newer,) = await store(pg, new_event(source_id))
    await deliver(pg, newer)
    seen = await prepared(database)
    while not seen.finished:
        async with database.begin() as connection:
            seen = await deadletters.look_at_some(connection, seen, limit=1)
    assert await line(pg) == []
    assert await pg.fetchval("SELECT count(*) FROM relay.operator_log") == 0
    assert (seen.matched, seen.queued, seen.overtaken) == (4, 1, 1)
    assert seen.refused == {
        "a refused request: it never was an event of yours": 1,
        "no usable event (thin_payload): discard it": 2,
    }
    # What was looked through is begun anew, and ends as it was said to.
    async with database.begin() as connection:
        run = await deadletters.begin(connection, seen, OPERATOR)
    assert (run.queued, run.done, run.finished) == (0, 0, False)
    done = await run_through(database, run, limit=1)
    assert done == seen
    assert len(await found(database)) == 3


# Giving up


async def test_a_discard_closes_and_leaves_a_receipt(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    letters = await dead(pg, new_event(source_id), new_event(source_id))
    await inbox.keep_refused(pg, source_id, "signature_wrong", "", b"x")
    sample = await pg.fetchval("SELECT max(id) FROM relay.dead_letter")
    async with database.begin() as connection:
        assert await deadletters.discard(connection, [*letters, sample], OPERATOR) == 3
        assert await deadletters.discard(connection, [*letters, sample], OPERATOR) == 0
    rows = await pg.fetch("SELECT skipped, kind, record FROM relay.receipt")
    assert [tuple(row) for row in rows] == [("discarded", 0, 0)] * 2
    assert await pg.fetchval("SELECT count(*) FROM relay.operator_log") == 2
    assert await found(database) == []
    assert (await replay(database, *letters)).queued == ()


async def test_an_event_that_comes_again_is_a_duplicate_in_any_state(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    (letter,) = await dead(pg, new_event(source_id, "evt_1"))
    assert await put(pg, new_event(source_id, "evt_1")) == [False]
    async with database.begin() as connection:
        await deadletters.discard(connection, [letter], OPERATOR)
    assert await put(pg, new_event(source_id, "evt_1")) == [False]
