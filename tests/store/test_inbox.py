"""The door into the inbox: exact bytes, order, and each event once."""

from __future__ import annotations

import asyncio
import hashlib
import random
from datetime import UTC, datetime

import asyncpg
import pytest

from relay.store import inbox, queue
from relay.store.engine import Database
from relay.store.inbox import REFUSED_SAMPLE_BYTES, NewEvent
from tests.store.rows import inbox_id, is_waiting, letters_of, new_event, put, row_of, states, store
from tests.support.processes import eventually

MIB = 1024 * 1024


def bodies() -> dict[str, bytes]:
    noise = random.Random(1)  # does not compress
    return {
        "nothing": b"",
        "every byte": bytes(range(256)) * 3,
        "NULs": b"\0" * 10_000,
        "not UTF-8": b'{"id": "\xff\xfe"}',
        "just inline": noise.randbytes(8000),
        "just not inline": noise.randbytes(8200),
        "1 MiB of noise": noise.randbytes(MIB),
        "1 MiB of blanks": b" " * MIB,
        "50 MiB": noise.randbytes(MIB) * 50,
    }


@pytest.mark.parametrize("name", bodies())
async def test_bodies_come_back_byte_for_byte(
    common_pg: asyncpg.Connection, common_source: int, name: str
) -> None:
    body = bodies()[name]
    event = new_event(common_source, body=body)
    assert await put(common_pg, event) == [True]
    row = await common_pg.fetchrow(
        "SELECT id, body, body_sha256, octet_length(body) AS bytes FROM relay.inbox"
    )
    assert row is not None
    assert row["body"] == body
    assert row["body_sha256"] == hashlib.sha256(body).digest()
    assert await common_pg.fetchval("SELECT relay.body($1)", row["id"]) == body
    view = await common_pg.fetchrow("SELECT body_sha256, body_bytes FROM relay.events")
    assert view is not None
    assert tuple(view) == (event.body_sha256, len(body))
    assert (await row_of(common_pg, row["id"])).bytes == len(body)


async def test_a_body_as_text_never_fails(
    common_pg: asyncpg.Connection, common_source: int
) -> None:
    texts = {
        b'{"a": "\xc3\xa9"}': '{"a": "é"}',
        b"\xff\0": "\\377\\000",
        b"ends with \0": "ends with \\000",
        b"back\\slash": "back\\slash",
        b"\xed\xa0\x80": "\\355\\240\\200",
        b"": "",
    }
    for body, text in texts.items():
        (stored,) = await store(common_pg, new_event(common_source, body=body))
        assert await common_pg.fetchval("SELECT relay.body_text($1)", stored) == text
    assert await common_pg.fetchval("SELECT relay.body_text(-1)") is None
    assert await common_pg.fetchval("SELECT relay.body(NULL)") is None


async def test_every_field_is_kept(pg: asyncpg.Connection, source_id: int) -> None:
    event = new_event(
        source_id,
        "evt_1",
        event_type="invoice.paid",
        object_type="invoice",
        object_id="in_1",
        account="acct_1",
        livemode=True,
        origin="reconcile",
        signature_header="t=1,v1=ü",
    )
    xact = None
    async with pg.transaction():
        assert await inbox.put(pg, [event]) == [True]
        xact = await pg.fetchval("SELECT (pg_current_xact_id()::text)::bigint")
        now = await pg.fetchval("SELECT now()")
    row = await pg.fetchrow("SELECT * FROM relay.inbox")
    assert row is not None
    assert dict(row) == {
        "id": await inbox_id(pg, event),
        "received_at": now,
        "source_id": source_id,
        "event_id": "evt_1",
        "event_type": "invoice.paid",
        "object_type": "invoice",
        "object_id": "in_1",
        "account": "acct_1",
        "livemode": True,
        "api_version": "2026-08-26.dahlia",
        "event_created": datetime.fromtimestamp(1_780_000_000, UTC),
        "origin": "reconcile",
        "signature_header": "t=1,v1=ü",
        "body": event.body,
        "body_sha256": event.body_sha256,
        "xact_id": xact,
    }


async def test_what_an_event_does_not_say_is_null(
    common_pg: asyncpg.Connection, common_source: int
) -> None:
    unknown = ("object_type", "object_id", "account", "livemode", "api_version", "event_created")
    event = new_event(common_source, **dict.fromkeys((*unknown, "signature_header")))
    (stored,) = await store(common_pg, event)
    row = await common_pg.fetchrow("SELECT * FROM relay.inbox WHERE id = $1", stored)
    assert row is not None
    assert [row[name] for name in (*unknown, "signature_header")] == [None] * 7
    assert await states(common_pg, stored) == ["pending"]


async def test_an_empty_call_stores_nothing(common_pg: asyncpg.Connection) -> None:
    assert await put(common_pg) == []


@pytest.mark.parametrize("created", [0, -62_135_596_800, 253_402_300_799, None])
async def test_times_of_creation_at_their_ends(
    common_pg: asyncpg.Connection, common_source: int, created: int | None
) -> None:
    (stored,) = await store(common_pg, new_event(common_source, event_created=created))
    events = await queue.read_events(common_pg, [await row_of(common_pg, stored)])
    assert events[stored].created == created


STRANGE = [
    "evt_\u00e9\u4e2d\U0001f600",
    "evt_\u200b\ufeff",
    "evt_'; DROP TABLE relay.inbox; --",
    'evt_"\\%_*',
    "evt_\x01\x1f\x7f",
    "\u202eevt",
    " evt_1 ",
    "EVT_1",
    "evt_1",
    "e\u0301vt",
    "\u00e9vt",
    "x" * 1000,
    "\U0010ffff" * 250,
    "rejected:evt",
]


async def test_strange_ids_are_ids(common_pg: asyncpg.Connection, common_source: int) -> None:
    """Also those that a collation would take for the same."""
    events = [new_event(common_source, event_id, object_id=event_id) for event_id in STRANGE]
    assert await put(common_pg, *events) == [True] * len(STRANGE)
    assert await put(common_pg, *reversed(events)) == [False] * len(STRANGE)
    for event_id in STRANGE:
        rows = await common_pg.fetch("SELECT * FROM relay.events WHERE event_id = $1", event_id)
        assert [row["object_id"] for row in rows] == [event_id]
        rows = await common_pg.fetch("SELECT * FROM relay.events WHERE object_id = $1", event_id)
        assert [row["event_id"] for row in rows] == [event_id]


@pytest.mark.parametrize("field", ["event_id", "event_type", "object_id", "account"])
@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
async def test_what_postgresql_cannot_hold_is_refused_and_leaves_nothing(
    common_pg: asyncpg.Connection, common_source: int, field: str, text: str
) -> None:
    bad = new_event(common_source, **{field: text, "lane": 0, "key_hash": 0})
    with pytest.raises((asyncpg.DataError, ValueError)):
        await put(common_pg, new_event(common_source), bad)
    assert await common_pg.fetchval("SELECT count(*) FROM relay.inbox") == 0


async def test_what_an_error_quotes_does_not_stop_the_row(
    common_pg: asyncpg.Connection, common_source: int
) -> None:
    event = new_event(
        common_source, dead_code="invalid_id", dead_error="bad \0 and \ud800" + "x" * 9999
    )
    (stored,) = await store(common_pg, event)
    error = await common_pg.fetchval(
        "SELECT error FROM relay.dead_letter WHERE inbox_id = $1", stored
    )
    assert error.startswith("bad \\0 and \\ud800xx")
    assert len(error) < 5000


# Order


async def test_ids_follow_the_order_of_arrival_and_not_of_the_keys(
    common_pg: asyncpg.Connection, common_source: int
) -> None:
    names = [f"evt_{number}" for number in range(300)]
    random.Random(7).shuffle(names)
    first, second = names[:170], names[170:]
    for part in (first, second):
        assert all(await put(common_pg, *(new_event(common_source, name) for name in part)))
    by_id = await common_pg.fetch("SELECT event_id FROM relay.inbox ORDER BY id")
    assert [row["event_id"] for row in by_id] == names
    by_number = await common_pg.fetch(
        "SELECT i.event_id FROM relay.queue q JOIN relay.inbox i ON i.id = q.inbox_id"
        " ORDER BY q.number"
    )
    assert [row["event_id"] for row in by_number] == names
    assert (
        await common_pg.fetchval("SELECT count(*) FROM relay.queue WHERE number <> inbox_id") == 0
    )


async def test_a_late_commit_is_not_skipped(
    pg: asyncpg.Connection, other: asyncpg.Connection, source_id: int
) -> None:
    """What has a lower id but commits later is read all the same."""
    slow = pg.transaction()
    await slow.start()
    assert await inbox.put(pg, [new_event(source_id, "evt_slow")]) == [True]
    assert await put(other, new_event(source_id, "evt_fast")) == [True]
    fast = await inbox_id(other, new_event(source_id, "evt_fast"))
    rows = await other.fetch("SELECT inbox_id FROM relay.queue")
    assert [row["inbox_id"] for row in rows] == [fast]
    await slow.commit()
    late = await inbox_id(other, new_event(source_id, "evt_slow"))
    assert late < fast
    assert await states(other, late, fast) == ["pending", "pending"]
    rows = await other.fetch("SELECT inbox_id FROM relay.queue ORDER BY number")
    assert [row["inbox_id"] for row in rows] == [late, fast]


# Each event once


async def test_an_event_is_stored_once(common_pg: asyncpg.Connection, common_source: int) -> None:
    first = new_event(common_source, "evt_1", body=b"first")
    again = new_event(common_source, "evt_1", body=b"other bytes", object_id="cus_2")
    assert await put(common_pg, first) == [True]
    assert await put(common_pg, again) == [False]
    assert await put(common_pg, again, new_event(common_source, "evt_2"), first) == [
        False,
        True,
        False,
    ]
    rows = await common_pg.fetch("SELECT body FROM relay.inbox WHERE event_id = 'evt_1'")
    assert [row["body"] for row in rows] == [b"first"]
    assert await common_pg.fetchval("SELECT count(*) FROM relay.queue") == 2


async def test_of_the_same_event_in_one_call_the_first_is_stored(
    common_pg: asyncpg.Connection, common_source: int
) -> None:
    events = [
        new_event(common_source, "evt_2", body=b"a"),
        new_event(common_source, "evt_1", body=b"b"),
        new_event(common_source, "evt_2", body=b"c"),
        new_event(common_source, "evt_1", body=b"d"),
        new_event(common_source, "evt_2", body=b"e"),
    ]
    assert await put(common_pg, *events) == [True, True, False, False, False]
    rows = await common_pg.fetch("SELECT body FROM relay.inbox ORDER BY id")
    assert [row["body"] for row in rows] == [b"a", b"b"]


async def test_sources_do_not_share_ids(common_pg: asyncpg.Connection, common_source: int) -> None:
    """Accounts of a platform may send the same event to two of its sources."""
    mine, theirs = new_event(common_source, "evt_1"), new_event(common_source + 1, "evt_1")
    assert await put(common_pg, mine, theirs) == [True, True]
    assert await put(common_pg, theirs, mine) == [False, False]


async def test_a_rollback_leaves_nothing(pg: asyncpg.Connection, source_id: int) -> None:
    dead = new_event(source_id, dead_code="thin_payload", dead_copy=True)
    event = new_event(source_id)
    transaction = pg.transaction()
    await transaction.start()
    assert await inbox.put(pg, [event, dead]) == [True, True]
    await transaction.rollback()
    for table in ("inbox", "event_key", "queue", "dead_letter", "receipt"):
        assert await pg.fetchval(f"SELECT count(*) FROM relay.{table}") == 0
    assert await put(pg, event, dead) == [True, True]


async def test_the_second_waits_for_the_first_to_commit(
    pg: asyncpg.Connection, other: asyncpg.Connection, source_id: int
) -> None:
    """A duplicate may only be told when the event is really held."""
    first = pg.transaction()
    await first.start()
    assert await inbox.put(pg, [new_event(source_id, "evt_1")]) == [True]
    second = asyncio.create_task(put(other, new_event(source_id, "evt_1")))
    await eventually(lambda: is_waiting(pg))
    assert not second.done()
    await first.commit()
    assert await second == [False]


async def test_the_second_stores_what_the_first_took_back(
    pg: asyncpg.Connection, other: asyncpg.Connection, source_id: int
) -> None:
    first = pg.transaction()
    await first.start()
    assert await inbox.put(pg, [new_event(source_id, "evt_1")]) == [True]
    second = asyncio.create_task(put(other, new_event(source_id, "evt_1")))
    await eventually(lambda: is_waiting(pg))
    await first.rollback()
    assert await second == [True]


async def test_the_same_ids_in_another_order_never_deadlock(
    pg: asyncpg.Connection, other: asyncpg.Connection, source_id: int
) -> None:
    shuffle = random.Random(3).shuffle
    for attempt in range(50):
        names = [f"evt_{attempt}_{number}" for number in range(40)]
        here, there = names[:], names[:]
        shuffle(here)
        shuffle(there)
        answers = await asyncio.gather(
            put(pg, *(new_event(source_id, name) for name in here)),
            put(other, *(new_event(source_id, name) for name in there)),
        )
        fresh = dict.fromkeys(names, 0)
        for order, answer in zip((here, there), answers, strict=True):
            for name, is_fresh in zip(order, answer, strict=True):
                fresh[name] += is_fresh
        assert set(fresh.values()) == {1}
    assert await pg.fetchval("SELECT count(*) FROM relay.inbox") == 50 * 40


async def test_keys_are_taken_in_their_own_order(
    pg: asyncpg.Connection, other: asyncpg.Connection, database: Database, source_id: int
) -> None:
    """Two batches, in each other's way for certain: the first is held up in its middle."""
    a, b, k = (new_event(source_id, f"evt_{name}") for name in "abk")
    async with database.driver() as holder:
        holding = holder.transaction()
        await holding.start()
        await inbox.put(holder, [k])
        first = asyncio.create_task(put(pg, a, k, b))
        await eventually(lambda: is_waiting(holder))
        second = asyncio.create_task(put(other, b, a))
        await eventually(lambda: is_waiting(holder, count=2))
        await holding.rollback()
        assert await first == [True, True, True]
        assert await second == [False, False]


# Dead on arrival


def _rejected(source_id: int, body: bytes, *, copy: bool) -> NewEvent:
    digest = hashlib.sha256(body)
    return new_event(
        source_id,
        f"rejected:{digest.hexdigest()}",
        event_type=None,
        object_type=None,
        object_id=None,
        body=body,
        dead_code="invalid_json",
        dead_error="no JSON",
        dead_copy=copy,
    )


@pytest.mark.parametrize("copy", [False, True])
async def test_what_is_no_event_is_dead_at_once(
    common_pg: asyncpg.Connection, common_source: int, copy: bool
) -> None:
    (stored,) = await store(common_pg, _rejected(common_source, b"{", copy=copy))
    assert await states(common_pg, stored) == ["dead"]
    letter = await common_pg.fetchrow("SELECT * FROM relay.dead_letters")
    assert letter is not None
    assert letter["inbox_id"] == stored
    assert (letter["error_code"], letter["error"]) == ("invalid_json", "no JSON")
    assert (letter["attempts"], letter["body_text"]) == (0, "{")
    kinds = await common_pg.fetch("SELECT kind FROM relay.queue")
    assert [row["kind"] for row in kinds] == ([1] if copy else [])
    assert await put(common_pg, _rejected(common_source, b"{", copy=copy)) == [False]
    assert len(await letters_of(common_pg, stored)) == 1


async def test_what_is_no_event_never_blocks_the_genuine_one(
    common_pg: asyncpg.Connection, common_source: int
) -> None:
    thin = _rejected(common_source, b'{"id": "evt_1", "object": "v2.core.event"}', copy=False)
    genuine = new_event(common_source, "evt_1")
    assert await put(common_pg, thin) == [True]
    assert await put(common_pg, genuine) == [True]
    assert await states(common_pg, await inbox_id(common_pg, genuine)) == ["pending"]


async def test_dead_and_living_ones_in_one_call(
    common_pg: asyncpg.Connection, common_source: int
) -> None:
    events = [
        new_event(common_source, "evt_1"),
        _rejected(common_source, b"1", copy=False),
        _rejected(common_source, b"2", copy=True),
        new_event(common_source, "evt_2"),
        _rejected(common_source, b"2", copy=True),
    ]
    assert await put(common_pg, *events) == [True, True, True, True, False]
    found = await common_pg.fetch("SELECT state FROM relay.events ORDER BY id")
    assert [row["state"] for row in found] == ["pending", "dead", "dead", "pending"]


# Samples of refused requests


async def test_a_refused_request_is_no_event(
    common_pg: asyncpg.Connection, common_source: int
) -> None:
    body = b"\xff" * (REFUSED_SAMPLE_BYTES + 1)
    await inbox.keep_refused(common_pg, common_source, "signature_wrong", "no \0 and \udcff", body)
    letter = await common_pg.fetchrow("SELECT * FROM relay.dead_letters")
    assert letter is not None
    assert (letter["source"], letter["inbox_id"], letter["event_id"]) == ("shop", None, None)
    assert (letter["error_code"], letter["error"]) == ("signature_wrong", "no \\0 and \\udcff")
    assert letter["body_text"] == "\\377" * REFUSED_SAMPLE_BYTES
    assert await common_pg.fetchval("SELECT count(*) FROM relay.events") == 0
    assert await common_pg.fetchval("SELECT dead FROM relay.lag") == 0


async def test_only_the_newest_samples_of_each_source_are_kept(
    common_pg: asyncpg.Connection, common_source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "REFUSED_SAMPLES_PER_SOURCE", 3)
    for number in range(5):
        await inbox.keep_refused(common_pg, common_source, "signature_wrong", str(number), b"")
        await inbox.keep_refused(common_pg, common_source + 1, "signature_wrong", str(number), b"")
    await store(common_pg, _rejected(common_source, b"{", copy=False))
    assert await inbox.prune_refused(common_pg) == 4
    assert await inbox.prune_refused(common_pg) == 0
    left = await common_pg.fetch(
        "SELECT error FROM relay.dead_letter WHERE source_id = $1 ORDER BY id", common_source
    )
    assert [row["error"] for row in left] == ["2", "3", "4", "no JSON"]
