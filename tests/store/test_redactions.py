"""Redaction: what goes, what stays, who may, and what may happen at the same time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from relay.core.errors import ConfigError
from relay.core.transform import StoredEvent
from relay.store import deadletters, events, inbox, partitions, queue, redactions, replays, sources
from relay.store.engine import Database
from relay.store.events import Filter, Operator
from relay.store.redactions import Extent, Step
from relay.store.schema import BUILD_REVISION, migrate
from tests.store.rows import (
    OPERATOR,
    bury,
    deliver,
    fail,
    is_waiting,
    letters_of,
    new_event,
    row_of,
    states,
    store,
)
from tests.support.logins import as_login
from tests.support.processes import eventually

BODY = b'{"id":"evt","data":{"object":{"email":"ann@example.com"}}}'
SHA256 = hashlib.sha256(BODY).digest()


@pytest_asyncio.fixture
async def admin(database_url: str) -> AsyncIterator[Database]:
    """What the command line has."""
    opened = Database(as_login(database_url, "admin"))
    yield opened
    await opened.close()


async def stored(pg: asyncpg.Connection, source_id: int, *ids: str, of: str = "cus_1") -> list[int]:
    return await store(pg, *(new_event(source_id, i, object_id=of, body=BODY) for i in ids))


async def extent(database: Database, of: str = "cus_1", source: str | None = None) -> Extent:
    async with database.begin() as connection:
        return await redactions.extent(connection, of, source)


async def redact(
    database: Database, what: Extent | None = None, operator: Operator = OPERATOR, limit: int = 500
) -> list[Step]:
    """All of it, step by step."""
    what = what or await extent(database)
    steps: list[Step] = []
    after: int | None = 0
    while after is not None:
        async with database.begin() as connection:
            steps.append(
                await redactions.redact_some(connection, what, operator, after=after, limit=limit)
            )
        after = steps[-1].done
    return steps[:-1]


async def body_of(pg: asyncpg.Connection, inbox_id: int) -> bytes:
    found: bytes = await pg.fetchval("SELECT body FROM relay.inbox WHERE id = $1", inbox_id)
    return found


async def read(pg: asyncpg.Connection, inbox_id: int, kind: int = 0) -> StoredEvent:
    """As a forwarder reads it."""
    return (await queue.read_events(pg, [await row_of(pg, inbox_id, kind)]))[inbox_id]


# What goes and what stays


async def test_the_bytes_go_and_everything_else_stays(
    admin: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await stored(pg, source_id, "evt_1")
    await deliver(pg, inbox_id)
    everything = "SELECT * FROM relay.inbox WHERE id = $1"
    seen = "SELECT * FROM relay.events WHERE id = $1"
    row, view = dict(await pg.fetchrow(everything, inbox_id)), await pg.fetchrow(seen, inbox_id)
    assert await redact(admin) == [Step(inbox_id, redacted=1)]
    assert dict(await pg.fetchrow(everything, inbox_id)) == row | {"body": b""}
    assert await pg.fetchrow(seen, inbox_id) == view
    assert (view["body_sha256"], view["body_bytes"]) == (SHA256, len(BODY))
    for function in ("body", "body_text"):
        assert await pg.fetchval(f"SELECT relay.{function}($1) IS NULL", inbox_id)
    proof = await pg.fetchrow("SELECT * FROM relay.redactions")
    assert (proof["inbox_id"], proof["source"], proof["event_id"]) == (inbox_id, "shop", "evt_1")
    assert (proof["body_sha256"], proof["body_bytes"]) == (SHA256, len(BODY))
    assert (proof["operator"], proof["reason"]) == (OPERATOR.who, OPERATOR.reason)
    log = await pg.fetchrow("SELECT * FROM relay.operator_log WHERE action = 'object.redact'")
    assert (log["who"], log["reason"], log["target"]) == (OPERATOR.who, OPERATOR.reason, "cus_1")
    assert log["details"]["redacted"] == 1


async def test_each_state_settles_as_it_should(
    admin: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await stored(pg, source_id, "waits", "failed", "dead", "sent", "copied", "replayed")
    _, failed, dead, sent, copied, replayed = ids
    await fail(pg, failed)
    await bury(pg, dead)
    await deliver(pg, sent)
    await bury(pg, copied, copy=True)
    await bury(pg, replayed)
    async with admin.begin() as connection:
        await deadletters.replay(connection, await letters_of(pg, replayed), OPERATOR)
    what = await extent(admin)
    assert (what.events, what.redacted, what.waiting, what.dead) == (6, 0, 3, 2)
    assert what.topics == ("customer",)
    (step,) = await redact(admin, what)
    assert step == Step(ids[-1], redacted=6, skipped=3, discarded=2)
    rows = await pg.fetch("SELECT id, state, skip_reason FROM relay.events ORDER BY id")
    assert [(row["id"], row["state"], row["skip_reason"]) for row in rows] == [
        (each, "delivered", None) if each == sent else (each, "skipped", "redacted") for each in ids
    ]
    assert await pg.fetchval("SELECT count(*) FROM relay.queue") == 0
    assert await letters_of(pg, *ids) == []
    assert {await body_of(pg, each) for each in ids} == {b""}


async def test_what_failures_have_said_goes_too(
    admin: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    mine, other = await stored(pg, source_id, "mine"), await stored(pg, source_id, "b", of="cus_2")
    for inbox_id in (*mine, *other):
        await fail(pg, inbox_id)
        await bury(pg, inbox_id)
    await redact(admin)
    for table in ("attempt", "dead_letter"):
        found = await pg.fetch(f"SELECT error FROM relay.{table} WHERE inbox_id = ANY ($1)", mine)
        assert {row["error"] for row in found} == {"redacted"}
        assert await pg.fetchval(
            f"SELECT error FROM relay.{table} WHERE inbox_id = ANY ($1)", other
        ) in ("it broke", "no use")
    assert await pg.fetchval("SELECT body_text IS NULL FROM relay.dead_letters WHERE inbox_id = $1",
                             mine[0])  # fmt: skip


async def test_samples_of_refused_requests_that_name_the_object(
    admin: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    named, longer = b'{"id":"cus_1","email":"a@b"}', b'{"id":"cus_12"}'
    for sample in (named, longer):
        await inbox.keep_refused(pg, source_id, "signature_wrong", "wrong", sample)
    what = await extent(admin)
    assert (what.events, what.samples) == (0, 1)
    async with admin.begin() as connection:
        assert await redactions.redact_samples(connection, what, OPERATOR) == 1
    rows = await pg.fetch("SELECT * FROM relay.dead_letter ORDER BY id")
    assert [row["refused_body"] for row in rows] == [b"", longer]
    assert [row["discarded_at"] is not None for row in rows] == [True, False]
    assert (await extent(admin)).samples == 0


async def test_other_objects_other_sources_and_later_events_are_not_touched(
    admin: Database, database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    async with database.begin() as connection:
        shop = (await sources.find(connection, "shop")).config
        wanted = type(shop)(source_id=0, public_id="", name="other", insecure=True)
        made, _ = await sources.create(
            connection, wanted, sealed_secrets=[], sealed_stripe_key=None
        )
    (mine,) = await stored(pg, source_id, "mine")
    (theirs,) = await stored(pg, made.config.source_id, "theirs")
    (another,) = await stored(pg, source_id, "another", of="cus_2")
    what = await extent(admin, source="shop")
    (later,) = await stored(pg, source_id, "later")
    await redact(admin, what)
    assert await body_of(pg, mine) == b""
    assert {await body_of(pg, each) for each in (theirs, another, later)} == {BODY}
    assert await states(pg, theirs, another, later) == ["pending"] * 3
    everywhere = await extent(admin)
    assert (everywhere.events, everywhere.redacted) == (2, 1)
    with pytest.raises(ConfigError, match="no source named 'none'"):
        await extent(admin, source="none")


async def test_bounded_steps_interrupted_and_asked_for_again(
    admin: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await stored(pg, source_id, *"abcde")
    what = await extent(admin)
    async with admin.begin() as connection:
        first = await redactions.redact_some(connection, what, OPERATOR, limit=2)
    assert first == Step(ids[1], redacted=2, skipped=2)
    async with admin.begin() as connection:
        await redactions.redact_some(connection, what, OPERATOR, limit=2)
        await connection.rollback()
    assert await states(pg, *ids) == ["skipped"] * 2 + ["pending"] * 3
    again = await extent(admin)
    assert (again.events, again.redacted, again.waiting) == (3, 2, 3)
    assert sum(step.redacted for step in await redact(admin, again, limit=2)) == 3
    proofs = "SELECT inbox_id, redacted_at FROM relay.redaction ORDER BY inbox_id"
    before = await pg.fetch(proofs)
    assert [row["inbox_id"] for row in before] == ids
    assert await redact(admin) == []
    assert await pg.fetch(proofs) == before


async def test_a_reason_is_needed(admin: Database, pg: asyncpg.Connection, source_id: int) -> None:
    (inbox_id,) = await stored(pg, source_id, "a")
    for reason in (None, "", "  "):
        with pytest.raises(ConfigError, match="needs a reason"):
            await redact(admin, operator=Operator("ann", reason))
    assert await body_of(pg, inbox_id) == BODY


@pytest.mark.parametrize("object_id", ["", "cus_none", "nul\0", "%"])
async def test_an_object_that_is_not_there(
    admin: Database, pg: asyncpg.Connection, source_id: int, object_id: str
) -> None:
    await stored(pg, source_id, "a")
    what = await extent(admin, object_id)
    assert (what.events, what.redacted, what.samples) == (0, 0, 0)


async def test_a_source_that_halted_at_the_event_is_free_again(
    admin: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await stored(pg, source_id, "a")
    async with pg.transaction():
        await queue.halt(pg, await row_of(pg, inbox_id), "no_route", "ann@example.com")
    await redact(admin)
    assert await pg.fetchval("SELECT halted_error IS NULL AND halted_at IS NULL FROM relay.source")


# The guard of the evidence

_PROOF = """
INSERT INTO relay.redaction (inbox_id, received_at, body_bytes, reason, operator)
SELECT id, received_at, 1, 'because', 'me' FROM relay.inbox
"""


async def test_even_the_owner_erases_only_what_a_redaction_tells_of(
    pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await stored(pg, source_id, "a")
    erase = "UPDATE relay.inbox SET body = ''"
    with pytest.raises(asyncpg.RestrictViolationError):
        await pg.execute(erase)
    await pg.execute(_PROOF)
    for change in (
        "body = 'another'",
        "body = '', event_id = 'evt_2'",
        "body = '', body_sha256 = sha256('')",
        "body = '', received_at = received_at + interval '1 us'",
        "object_id = 'cus_2'",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await pg.execute(f"UPDATE relay.inbox SET {change}")
    await pg.execute(erase)
    assert await body_of(pg, inbox_id) == b""
    for change in ("UPDATE relay.inbox SET body = 'back'", "DELETE FROM relay.inbox"):
        with pytest.raises(asyncpg.RestrictViolationError):
            await pg.execute(change)


async def test_a_redaction_is_never_changed(pg: asyncpg.Connection, source_id: int) -> None:
    await stored(pg, source_id, "a")
    await pg.execute(_PROOF)
    for change in ("UPDATE relay.redaction SET reason = 'x'", "TRUNCATE relay.redaction"):
        with pytest.raises(asyncpg.RestrictViolationError):
            await pg.execute(change)


async def test_an_empty_body_that_was_received_is_not_a_redacted_one(
    admin: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    empty = new_event(source_id, "empty", body=b"")
    (inbox_id,) = await store(pg, empty)
    assert (await read(pg, inbox_id)).body == b""
    assert await pg.fetchval("SELECT relay.body($1)", inbox_id) == b""
    moment = await pg.fetchval("SELECT received_at FROM relay.inbox")
    function = "SELECT relay.redact($1, $2, 'why', 'who')"
    assert await pg.fetchval(function, [inbox_id], [moment]) == 0
    assert await pg.fetchval("SELECT count(*) FROM relay.redaction") == 0


async def test_it_goes_with_its_partition(pg: asyncpg.Connection, source_id: int) -> None:
    await stored(pg, source_id, "a")
    await pg.execute(_PROOF)
    await pg.execute(
        "INSERT INTO relay.redaction (inbox_id, received_at, body_bytes, reason, operator)"
        " VALUES (0, now() - interval '400 days', 1, 'because', 'me')"
    )
    assert await partitions.prune(pg, retention_days=90) == 1
    assert await pg.fetchval("SELECT min(inbox_id) FROM relay.redaction") > 0


# It is never sent again


async def test_no_replay_takes_it(admin: Database, pg: asyncpg.Connection, source_id: int) -> None:
    gone, kept = (
        *await stored(pg, source_id, "gone"),
        *await stored(pg, source_id, "kept", of="cus_2"),
    )
    for each in (gone, kept):
        await deliver(pg, each)
    await redact(admin)
    choice = replays.Choice(Filter(state="delivered"))
    async with admin.begin() as connection:
        assert await replays.count_redacted(connection, choice) == 1
        run = await replays.begin(connection, choice, 2, OPERATOR)
        while not run.finished:
            run = await replays.queue_some(connection, run, OPERATOR)
        assert (run.queued, run.redacted) == (1, 1)
        found = await replays.find_run(connection, run.replay_id)
        assert found == run
        await connection.rollback()
    moments = {row["id"]: row["received_at"] for row in await pg.fetch("TABLE relay.inbox")}
    async with admin.begin() as connection:
        again = await replays.replay(connection, [*moments.items()], OPERATOR)
    assert (again.queued, again.redacted) == ((kept,), (gone,))
    assert await pg.fetchval("SELECT count(*) FROM relay.queue") == 1


async def test_a_dead_letter_of_it_is_refused(
    admin: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    """As an older build might leave one: it died while the redaction went by."""
    (inbox_id,) = await stored(pg, source_id, "a")
    await bury(pg, inbox_id)
    await redact(admin)
    await pg.execute("UPDATE relay.dead_letter SET discarded_at = NULL")
    (letter,) = await letters_of(pg, inbox_id)
    async with admin.begin() as connection:
        done = await deadletters.replay(connection, [letter], OPERATOR)
    assert done.queued == ()
    assert done.refused == {letter: "its body was redacted: discard it"}


async def test_a_forwarder_reads_that_there_is_nothing(
    admin: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    """However a row came into the line: a replay had read the body a moment before."""
    (inbox_id,) = await stored(pg, source_id, "a")
    row = await row_of(pg, inbox_id)
    await redact(admin)
    await pg.execute(
        "INSERT INTO relay.queue (source_id, lane, number, inbox_id, received_at, key_hash, bytes)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        row.source_id, row.lane, row.number, inbox_id, row.received_at, row.key_hash, row.bytes,
    )  # fmt: skip
    assert (await read(pg, inbox_id)).body is None


# At the same time


async def test_it_waits_for_the_batch_that_an_event_is_in(
    admin: Database, pg: asyncpg.Connection, other: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await stored(pg, source_id, "a")
    row = await row_of(pg, inbox_id)
    async with pg.transaction():
        assert (row.source_id, row.lane) in await queue.lock_lanes(pg, (0, 0), 64)
        redaction = asyncio.create_task(redact(admin))
        await eventually(lambda: redaction.done() or is_waiting(other))
        assert not redaction.done()
        assert (await read(pg, inbox_id)).body == BODY
        await deliver(pg, inbox_id)
    assert await redaction == [Step(inbox_id, redacted=1)]
    assert await states(pg, inbox_id) == ["delivered"]


async def test_a_dead_letter_that_is_replayed_at_that_moment_is_skipped(
    admin: Database,
    database: Database,
    pg: asyncpg.Connection,
    source_id: int,
) -> None:
    (inbox_id,) = await stored(pg, source_id, "a")
    await bury(pg, inbox_id)
    letters = await letters_of(pg, inbox_id)
    async with database.begin() as connection:
        await deadletters.replay(connection, letters, OPERATOR)
        redaction = asyncio.create_task(redact(admin))
        await eventually(lambda: redaction.done() or is_waiting(pg))
        assert not redaction.done()
    assert await redaction == [Step(inbox_id, redacted=1, skipped=1)]
    assert await states(pg, inbox_id) == ["skipped"]


async def test_two_at_once_do_it_once(
    admin: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await stored(pg, source_id, *"abcdefgh")
    done = await asyncio.gather(*(redact(admin, limit=2) for _ in range(3)))
    assert sum(step.redacted for steps in done for step in steps) == len(ids)
    assert await states(pg, *ids) == ["skipped"] * len(ids)
    assert await pg.fetchval("SELECT count(*) FROM relay.receipt") == len(ids)
    assert await pg.fetchval("SELECT count(*) FROM relay.redaction") == len(ids)


# The schema before


async def test_the_schema_before_knows_no_redaction(
    database: Database, pg: asyncpg.Connection, source_id: int, direct_url: str
) -> None:
    (inbox_id,) = await stored(pg, source_id, "a")
    await migrate(direct_url, f"{BUILD_REVISION - 1:04}")
    with pytest.raises(ConfigError, match="run `relay migrate`"):
        await extent(database)
    async with database.begin() as connection:
        assert await redactions.of_events(connection, [inbox_id]) == {}
        assert (
            await replays.count_redacted(connection, replays.Choice(Filter(state="delivered"))) == 0
        )
        assert len(await events.show_events(connection, Filter())) == 1
    assert (await read(pg, inbox_id)).body == BODY
    assert await partitions.prune(pg, retention_days=90) == 0


async def test_the_schema_does_not_go_below_what_proves_an_erasure(
    database: Database, pg: asyncpg.Connection, source_id: int, direct_url: str
) -> None:
    await stored(pg, source_id, "a")
    await redact(database)
    with pytest.raises(Exception, match="bodies were redacted"):
        await migrate(direct_url, f"{BUILD_REVISION - 1:04}")
    assert await pg.fetchval("SELECT count(*) FROM relay.redactions") == 1
