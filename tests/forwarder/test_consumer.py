"""The consumer of docs/consumers.md, as the file that a reader copies and as a process.

What the forwarder has produced, and what it would produce after faults, must leave its tables as
the events say: whenever it was killed, and whatever came twice, late or again.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import Message, Producer

from relay.core.source import SourceConfig
from relay.store import replays
from relay.store.events import Operator
from tests.forwarder.world import World, event
from tests.support.topics import make_topics

DOCS = Path(__file__).resolve().parents[2] / "docs"
PROGRAM = DOCS / "examples" / "consumer.py"
TOPICS = ("customer", "unknown", "subscription_items", "dead_letter")
WHO = Operator("ann@desk", "the consumer was wrong")

# Runs the program, and kills it as it is about to execute its n-th statement that begins so.
_KILLED_AT = """
import os, runpy, signal, sqlite3, sys
_, beginning, count, *sys.argv = sys.argv
left, connect = int(count), sqlite3.connect
def trace(statement):
    global left
    left -= statement.lstrip().startswith(beginning)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
def traced(*args, **kwargs):
    connection = connect(*args, **kwargs)
    connection.set_trace_callback(trace)
    return connection
sqlite3.connect = traced
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Identity(NamedTuple):
    source: str
    account: str
    topic: str
    key: str
    type: str


class State(NamedTuple):
    """What the last event said of an object."""

    event_id: str
    number: int
    deleted: bool


def about(body: bytes) -> dict[str, Any]:
    """The object of an event."""
    found: dict[str, Any] = json.loads(body)["data"]["object"]
    return found


class Truth:
    """What was sent, in the order of each object; what was sent last is what counts."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.objects: dict[Identity, State] = {}
        self.records: set[tuple[Identity, str, str]] = set()

    def sent(self, source: SourceConfig, body: bytes, replay_id: str = "") -> None:
        told, what = json.loads(body), about(body)
        known = what["object"] in ("customer", "subscription")
        self._add(
            Identity(
                source.name,
                told.get("account", ""),
                self._prefix + ("customer" if known else "unknown"),
                json.dumps({"id": what["id"]}, separators=(",", ":")),
                what["object"],
            ),
            State(told["id"], what["number"], told["type"].endswith(".deleted")),
            replay_id,
        )
        for item in what.get("items", {}).get("data", ()):
            key = json.dumps({"id": what["id"], "item_id": item["id"]}, separators=(",", ":"))
            topic = self._prefix + "subscription_items"
            identity = Identity(source.name, told.get("account", ""), topic, key, item["object"])
            self._add(identity, State(told["id"], item["number"], False), replay_id)

    def _add(self, identity: Identity, state: State, replay_id: str) -> None:
        self.objects[identity] = state
        self.records.add((identity, state.event_id, replay_id))


class Reader:
    """Runs the program on a file, again and again."""

    def __init__(self, world: World, bootstrap_servers: str, database: Path) -> None:
        self.database = database
        self._arguments = (
            *("--bootstrap-servers", bootstrap_servers, "--database", str(database)),
            *(world.prefix + name for name in TOPICS),
        )

    async def to_the_end(self) -> str:
        """What it said on the way."""
        process = await self._start(str(PROGRAM), "--until-end")
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return errors.decode()

    async def killed_after(self, seconds: float) -> None:
        process = await self._start(str(PROGRAM))
        await asyncio.sleep(seconds)
        process.kill()
        await process.communicate()
        assert process.returncode == -signal.SIGKILL

    async def killed_at(self, beginning: str, count: int) -> bool:
        """Whether it came so far that it was killed."""
        process = await self._start("-c", _KILLED_AT, beginning, str(count), str(PROGRAM),
                                    "--until-end")  # fmt: skip
        await process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        return process.returncode != 0

    async def stopped_after(self, seconds: float) -> None:
        """By SIGTERM: it ends by itself, and cleanly."""
        process = await self._start(str(PROGRAM))
        await asyncio.sleep(seconds)
        process.terminate()
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()

    async def _start(self, *command: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, *command, *self._arguments, stderr=asyncio.subprocess.PIPE
        )

    def objects(self) -> dict[Identity, State]:
        rows = self.rows("SELECT source, account, topic, key, type, event_id, value, deleted"
                         " FROM object")  # fmt: skip
        return {
            Identity(*row[:5]): State(row[5], json.loads(row[6])["number"], bool(row[7]))
            for row in rows
        }

    def seen(self) -> list[tuple[Any, ...]]:
        return self.rows("SELECT source, topic, key, event_id, replay_id FROM seen ORDER BY 1, 2")

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database)) as database:
            return database.execute(statement).fetchall()


@pytest.fixture
def reader(world: World, kafka: str, tmp_path: Path) -> Reader:
    return Reader(world, kafka, tmp_path / "objects.db")


@pytest.fixture
async def shops(world: World, kafka: str) -> list[SourceConfig]:
    """Two sources that share their topics, and that know objects with the same ids."""
    settings = {
        "resources": frozenset({"customer"}),
        "fan_out": ("subscription.items",),
        "tombstones": True,
    }
    await make_topics(kafka, [world.prefix + name for name in TOPICS], partitions=3)
    return [await world.add_source(name, **settings) for name in ("berlin", "paris")]


def some_event(number: int, chance: random.Random) -> bytes:
    """Of a few objects of several kinds, so that each has a history."""
    which = chance.randrange(4)
    account = chance.choice([None, "acct_1"])
    last = chance.choice(["created", "updated", "updated", "updated", "deleted"])
    kind = chance.choice(["customer", "customer.subscription", "plan", "price"])
    fields: dict[str, Any] = {"number": number, "account": account}
    if kind == "customer.subscription":
        items = [
            {"id": f"si_{each}", "object": "subscription_item", "number": number}
            for each in range(chance.randrange(3))
        ]
        listed = {"object": "list", "has_more": False, "data": items}
        return event(
            f"{kind}.{last}", f"sub_{which}", object="subscription", items=listed, **fields
        )
    # A plan and its price share their id, and the default topic.
    return event(f"{kind}.{last}", f"{'cus' if kind == 'customer' else 'p'}_{which}", **fields)


async def send(
    world: World, shops: list[SourceConfig], truth: Truth, chance: random.Random, count: int
) -> list[tuple[SourceConfig, int, bytes]]:
    """Events through two forwarders; by source, inbox id and body."""
    sent = []
    processes = [world.process(batch_rows=7), world.process(batch_rows=7)]
    for number in range(count):
        shop = chance.choice(shops)
        body = some_event(number, chance)
        origin = chance.choice(["webhook", "webhook", "reconcile"])
        (inbox_id,) = await world.put(shop, body, origin=origin)
        truth.sent(shop, body)
        sent.append((shop, inbox_id, body))
        if number % 10 == 9:
            await asyncio.gather(*(each.drain() for each in processes))
    await asyncio.gather(*(each.drain() for each in processes))
    return sent


async def replay(world: World, truth: Truth, sent: list[tuple[SourceConfig, int, bytes]]) -> None:
    """Send some again, in the order of their arrival."""
    wanted = {inbox_id: (shop, body) for shop, inbox_id, body in sent}
    rows = await world.fetch(
        "SELECT id, received_at FROM relay.inbox WHERE id = ANY ($1) ORDER BY id", list(wanted)
    )
    async with world.database.begin() as connection:
        done = await replays.replay(connection, [tuple(row) for row in rows], WHO)
    assert len(done.queued) == len(sent)
    for inbox_id in done.queued:
        truth.sent(*wanted[inbox_id], done.replay_id)
    await world.process().drain()


def check(reader: Reader, truth: Truth) -> None:
    assert reader.objects() == truth.objects
    expected = {(i.source, i.topic, i.key, event, replay) for i, event, replay in truth.records}
    seen = reader.seen()
    assert len(seen) == len(set(seen))
    assert set(seen) == expected


def run_again(kafka: str, messages: list[Message]) -> None:
    """The same records once more, to the same partitions, in this order."""
    producer = Producer({"bootstrap.servers": kafka})
    for message in messages:
        producer.produce(
            message.topic() or "",
            message.value(),
            message.key(),
            message.partition() or 0,
            headers=message.headers(),
        )
    assert producer.flush(30) == 0


@pytest.mark.slow
async def test_killed_at_random_it_holds_what_the_events_say(
    world: World, shops: list[SourceConfig], kafka: str, reader: Reader
) -> None:
    """Forwarded, deleted, mixed, fanned out and replayed; read by a process that is killed."""
    chance, truth = random.Random(1), Truth(world.prefix)
    first = await send(world, shops, truth, chance, 60)
    # As it is about to begin a transaction, to write in one, and to commit it.
    for beginning, count in (("BEGIN", 1), ("INSERT OR IGNORE", 5), ("INSERT OR REPLACE", 7)):
        assert await reader.killed_at(beginning, count)
    for beginning, count in (("INSERT INTO object", 3), ("COMMIT", 1)):
        assert await reader.killed_at(beginning, count)
    for _ in range(3):
        await reader.killed_after(chance.uniform(0.1, 0.8))
    await reader.killed_at("COMMIT", 2)
    await reader.to_the_end()
    check(reader, truth)
    # One object's whole history again, then its first event alone: seen as its state once more.
    ids = [(shop.name, about(body)["id"]) for shop, _, body in first]
    longest = Counter(ids).most_common(1)[0][0]
    mine = [each for each, whose in zip(first, ids, strict=True) if whose == longest]
    assert len(mine) > 2
    await replay(world, truth, mine)
    await replay(world, truth, mine[:1])
    await reader.killed_at("COMMIT", 1)
    await reader.to_the_end()
    check(reader, truth)
    await send(world, shops, truth, chance, 40)
    for count in range(2, 40, 9):
        await reader.killed_at("INSERT", count)
    await reader.stopped_after(0.5)
    await reader.to_the_end()
    check(reader, truth)
    # After faults: runs of records again, some of them late, long after newer ones of their key.
    for name in TOPICS[:3]:
        messages = await world.topic(name, at_least=3)
        run_again(kafka, messages[len(messages) // 2 :])
        run_again(kafka, chance.sample(messages, len(messages) // 3))
    await reader.killed_at("INSERT OR IGNORE", 3)
    await reader.to_the_end()
    check(reader, truth)
    assert len(truth.objects) > 20
    assert {state.deleted for state in truth.objects.values()} == {True, False}


async def test_the_same_records_read_from_the_beginning_change_nothing(
    world: World, shops: list[SourceConfig], reader: Reader
) -> None:
    """As when a place is lost: the retention has passed, or the topic was made anew."""
    chance, truth = random.Random(7), Truth(world.prefix)
    await send(world, shops, truth, chance, 30)
    await reader.to_the_end()
    with closing(sqlite3.connect(reader.database)) as database:
        database.execute("DELETE FROM place")
        database.commit()
    await reader.to_the_end()
    check(reader, truth)


def like(kafka: str, message: Message, number: int | None, **headers: str) -> None:
    """Produce a record like this one but for the number in its value and some headers."""
    value = None if number is None else json.dumps(
        json.loads(message.value() or b"") | {"number": number}
    )  # fmt: skip
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(
        message.topic() or "",
        value,
        message.key(),
        message.partition() or 0,
        headers=list((dict(message.headers() or []) | headers).items()),
    )
    assert producer.flush(30) == 0


async def only_one(world: World, shop: SourceConfig) -> Message:
    """The record of an object's first event."""
    await world.put(shop, event("customer.updated", "cus_1", number=1))
    await world.process().drain()
    (message,) = await world.topic("customer", at_least=1)
    return message


async def test_a_late_record_that_is_new_is_seen_and_not_believed(
    world: World, shops: list[SourceConfig], kafka: str, reader: Reader
) -> None:
    """Requests that overlapped may come either way; the higher inbox id is what counts.

    Also after a replay: then it is lower than what was seen, and not than what is shown.
    """
    message = await only_one(world, shops[0])
    like(kafka, message, 2, _event_id="evt_high", _inbox_id="1000")
    like(kafka, message, 3, _event_id="evt_late", _inbox_id="500")
    await reader.to_the_end()
    (state,) = reader.objects().values()
    assert state == State("evt_high", 2, False)
    like(kafka, message, 4, _event_id="evt_again", _inbox_id="400", _replay_id="rpl_1")
    like(kafka, message, 5, _event_id="evt_later", _inbox_id="600")
    await reader.to_the_end()
    (state,) = reader.objects().values()
    assert state == State("evt_again", 4, False)
    assert {row[3] for row in reader.seen()} >= {"evt_high", "evt_late", "evt_again", "evt_later"}
    like(kafka, message, 6, _event_id="evt_newest", _inbox_id="1001")
    await reader.to_the_end()
    (state,) = reader.objects().values()
    assert state == State("evt_newest", 6, False)


async def test_a_tombstone_whose_delete_was_compacted_away(
    world: World, shops: list[SourceConfig], kafka: str, reader: Reader
) -> None:
    message = await only_one(world, shops[0])
    await reader.to_the_end()
    like(kafka, message, None, _event_id="evt_d", _inbox_id="999", __op="d")
    await reader.to_the_end()
    (state,) = reader.objects().values()
    assert state.deleted
    like(kafka, message, 2, _event_id="evt_late", _inbox_id="998")
    await reader.to_the_end()
    assert [each.deleted for each in reader.objects().values()] == [True]


async def test_dead_letters_snapshots_and_lists_that_are_cut(
    world: World, shops: list[SourceConfig], reader: Reader
) -> None:
    item = {"id": "si_1", "object": "subscription_item", "number": 1}
    listed = {"object": "list", "has_more": True, "data": [item]}
    fields = {"object": "subscription", "number": 1, "items": listed}
    await world.put(shops[0], event("customer.subscription.updated", "sub_1", **fields))
    snapshot = event("customer.snapshot", "cus_1", number=2)
    await world.put(shops[0], snapshot, origin="snapshot")
    strict = await world.add_source("strict", unselected="FAIL")
    await world.put(strict, event("payout.paid", "po_1"))
    await world.process().drain()
    assert len(await world.topic("dead_letter", at_least=1)) == 1
    assert "passed over, not a record of relay" in await reader.to_the_end()
    found = reader.rows("SELECT type, op, list_truncated FROM object ORDER BY type")
    assert found == [("customer", "r", 0), ("subscription", "u", 0), ("subscription_item", "u", 1)]


# The guide


def quoted() -> Iterator[str]:
    text = (DOCS / "consumers.md").read_text("utf-8")
    yield from re.findall(r"^```(?:python|sql)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_what_the_guide_quotes_is_in_the_program() -> None:
    program = PROGRAM.read_text("utf-8")
    excerpts = [each for each in quoted() if "-- not in the program" not in each]
    assert excerpts
    for excerpt in excerpts:
        assert excerpt in program


async def test_the_statements_of_the_guide_run(
    world: World, shops: list[SourceConfig], reader: Reader
) -> None:
    truth = Truth(world.prefix)
    await send(world, shops, truth, random.Random(5), 40)
    await reader.to_the_end()
    statements = [each for each in quoted() if "-- not in the program" in each]
    assert statements
    for statement in statements:
        reader.rows(statement)


def test_the_program_needs_what_it_says() -> None:
    imported = set(re.findall(r"^(?:from|import) (\w+)", PROGRAM.read_text("utf-8"), re.MULTILINE))
    assert imported - sys.stdlib_module_names == {"confluent_kafka"}
