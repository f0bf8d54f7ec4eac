"""What was sent again, told by the operator log, the queue and the receipts."""

from __future__ import annotations

import asyncpg

from relay.store import deadletters, replays, runs
from relay.store.engine import Database
from relay.store.events import Filter, Operator
from relay.store.runs import Progress, Told
from tests.store.rows import OPERATOR, bury, deliver, leave_out, letters_of, new_event, store


async def listed(database: Database) -> list[Told]:
    async with database.begin() as connection:
        return await runs.list_replays(connection)


async def told(database: Database, replay_id: str) -> tuple[Told, Progress]:
    async with database.begin() as connection:
        found = await runs.find_replay(connection, replay_id)
        assert found is not None
        return found, await runs.progress(connection, found)


async def test_every_kind_is_listed_the_newest_first(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    assert await listed(database) == []
    ids = await store(pg, *(new_event(source_id) for _ in range(6)))
    await bury(pg, *ids[:4])
    for each in ids[4:]:
        await deliver(pg, each)
    moments = dict(await pg.fetch("SELECT id, received_at FROM relay.inbox"))
    (letter,) = await letters_of(pg, ids[0])
    async with database.begin() as connection:
        await deadletters.replay(connection, [letter], Operator("bob", None))
    async with database.begin() as connection:
        await replays.replay(connection, [(ids[4], moments[ids[4]])], OPERATOR)
    async with database.begin() as connection:
        prepared = await deadletters.prepare(connection, Filter(source="shop", error="too_large"))
        dead = await deadletters.begin(connection, prepared, OPERATOR)
    async with database.begin() as connection:
        dead = await deadletters.queue_some(connection, dead, Operator("bob", "later"), limit=2)
    async with database.begin() as connection:
        choice = replays.Choice(Filter(state="delivered"), "customer")
        run = await replays.begin(connection, choice, 1, OPERATOR)
    while not run.finished:
        async with database.begin() as connection:
            run = await replays.queue_some(connection, run, OPERATOR)
    found = await listed(database)
    assert [(each.of, each.matched, each.queued, each.left_out) for each in found] == [
        ("events", 1, 1, 0),
        ("dead letters", 3, 2, 0),
        ("events", 1, 1, 0),
        ("dead letters", 1, 1, 0),
    ]
    assert [each.is_finished for each in found] == [True, False, True, True]
    # Whoever began it and why, also when somebody else has gone on with it.
    assert [(each.who, each.reason) for each in found] == [
        *[("ann@desk", "asked to")] * 3,
        ("bob", None),
    ]
    assert [each.filter for each in found] == [
        {"state": "delivered", "topic": "customer"},
        {"source": "shop", "error": "too_large"},
        None,
        None,
    ]
    assert found[1].replay_id == dead.replay_id
    assert found[1].started_at < found[1].updated_at < found[0].started_at
    async with database.begin() as connection:
        assert await runs.list_replays(connection, limit=2) == found[:2]
        assert await runs.find_replay(connection, "rpl_other") is None


async def test_what_became_of_one(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await store(pg, *(new_event(source_id) for _ in range(5)))
    await deliver(pg, ids[4])
    await bury(pg, *ids[:4])
    async with database.begin() as connection:
        done = await deadletters.replay(connection, await letters_of(pg, *ids[:4]), OPERATOR)
    assert (await told(database, done.replay_id))[1] == Progress(4, 0, 0)
    await deliver(pg, ids[0], records=3)
    await leave_out(pg, ids[1])
    await bury(pg, ids[2], copy=True)
    replay, progress = await told(database, done.replay_id)
    assert replay.queued == 4
    # The fourth is dead again; the fifth was never replayed.
    assert progress == Progress(waiting=1, delivered=1, skipped=1)


async def test_what_cannot_be_sent_is_counted(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    unusable = {"event_type": None, "object_id": None, "dead_code": "thin_payload"}
    thin, good = await store(
        pg, new_event(source_id, **unusable), new_event(source_id, dead_code="too_large")
    )
    letters = await letters_of(pg, thin, good)
    async with database.begin() as connection:
        few = await deadletters.replay(connection, letters, OPERATOR)
        many = await deadletters.begin(
            connection, await deadletters.prepare(connection, Filter()), OPERATOR
        )
        many = await deadletters.queue_some(connection, many, OPERATOR)
    for replay_id, matched, queued in ((few.replay_id, 2, 1), (many.replay_id, 1, 0)):
        replay, _ = await told(database, replay_id)
        assert (replay.matched, replay.queued, replay.left_out) == (matched, queued, 1)


async def test_what_an_earlier_build_has_written_down_is_read(
    database: Database, pg: asyncpg.Connection
) -> None:
    await pg.execute(
        "INSERT INTO relay.operator_log (who, action, target, details) VALUES"
        """ ('ann', 'dead_letter.replay', 'rpl_1', '{"queued": [7, 9], "refused": [8]}')"""
    )
    replay, _ = await told(database, "rpl_1")
    assert (replay.matched, replay.queued, replay.left_out) == (3, 2, 1)
