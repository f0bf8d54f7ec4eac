"""All event types that Stripe is known to send, from the HTTP endpoint into Kafka.

What arrives is compared with `expectation`, byte for byte, and with the receipts.
"""

from __future__ import annotations

import random
from collections import defaultdict

import asyncpg
import pytest
from confluent_kafka import Message

from relay.app import running
from relay.dev import samples
from relay.settings import load
from relay.store.sealing import new_key
from tests.acceptance import evidence
from tests.acceptance.expectation import Expected, Settings, expected_records
from tests.acceptance.fleet import create_source, environment
from tests.acceptance.sender import Event, Sender, Webhook
from tests.support.logins import as_login
from tests.support.processes import eventually

SECRET = "whsec_" + "e" * 32
PLACEHOLDER = "@@"
# What a parser in the middle would rewrite, refuse or merge, and names that are ours.
ODD_TOKENS = (
    r'1.10, "exponent": 1E+2, "big" : 123456789012345678901234567890, "tiny": -0.0,'
    r' "twice": 1, "twice": [ ], "escaped": "\u00e9\/\"\\\ud83d\ude00", "zero": "\u0000",'
    r' "lone": "\ud83d", "text": "ą\u2028 é {[,:]} ",'
    r' "_event_type": "forged", "__deleted": {"a": [1, 2]}, "empty": { } '
)


def body_of(name: str, *, seed: int, account: str | None, odd: bool) -> tuple[str, bytes]:
    """An id and the indented JSON of an event, with odd tokens in its object if wanted."""
    sample = samples.sample(name, seed=seed, account=account, livemode=odd)
    if not odd:
        return sample.event_id, sample.body
    sample.event["data"]["object"]["odd"] = PLACEHOLDER
    body = samples.to_body(sample.event)
    marked = f'"{PLACEHOLDER}"'.encode()
    assert body.count(marked) == 1
    return sample.event_id, body.replace(marked, ODD_TOKENS.encode())


@pytest.mark.parametrize("route_by", ["event_type", "object"])
async def test_every_type(
    route_by: str, database_url: str, direct_url: str, kafka: str, topic_prefix: str
) -> None:
    # The second way is also the one with everything switched on.
    everything = route_by == "object"
    source = Settings("Müller & Söhne", topic_prefix, route_by, everything, everything)
    environ = environment(
        RELAY_DATABASE_URL=as_login(database_url, "services"),
        RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka,
        RELAY_ENCRYPTION_KEYS=new_key(),
        RELAY_TOPIC_PARTITIONS="2",
    )
    flags = ["--signing-secret", SECRET, "--topic-prefix", topic_prefix, "--schema", "*"]
    flags += ["--route-by", route_by]
    if everything:
        flags += ["--tombstones", "--fan-out", "invoice.lines,charge.refunds,subscription.items"]
    made = await create_source(source.name, *flags, environment=environ)
    webhook = Webhook(f"/webhooks/{made['id']}?api_key={made['api_key']}", SECRET)
    names = [each.name for each in samples.event_types()]
    assert len(names) == 275
    account = "acct_1Relay" if everything else None
    bodies = dict(
        body_of(name, seed=number, account=account, odd=everything)
        for number, name in enumerate(names)
    )
    pg = await asyncpg.connect(direct_url)
    async with running(load(environ)) as app:
        assert app.receiver is not None
        ports = [port for _, port in app.receiver.addresses]
        sender = Sender(webhook, lambda: ports, random.Random(0))
        await sender.run([Event(event_id, b"", body) for event_id, body in bodies.items()], 8)
        assert sender.answers == {"stored": 275}

        async def settled() -> bool:
            return not await pg.fetchval("SELECT EXISTS (SELECT FROM relay.queue)")

        await eventually(settled, deadline=300)
    states = await pg.fetch("SELECT state, count(*) FROM relay.events GROUP BY state")
    assert [tuple(row) for row in states] == [("delivered", 275)]
    messages = await evidence.read_topics(kafka, topic_prefix)
    rows = await pg.fetch("SELECT event_id, id FROM relay.events")
    inbox_ids = {row["event_id"]: row["id"] for row in rows}
    by_event: dict[str, list[Message]] = defaultdict(list)
    for message in messages:
        by_event[evidence.headers(message)["_event_id"].decode()].append(message)
    assert by_event.keys() == bodies.keys()
    for event_id, body in bodies.items():
        expected = expected_records(body, source)
        found = [_expectation_of(message, inbox_ids[event_id]) for message in by_event[event_id]]
        # In this order within a topic and key, which is as far as Kafka has an order.
        assert sorted(found, key=_line) == sorted(expected, key=_line), event_id
    await _check_receipts(pg, messages)
    await pg.close()


def _line(record: Expected) -> tuple[str, str]:
    return record.topic, record.key


def _expectation_of(message: Message, inbox_id: int) -> Expected:
    key, value = message.key(), message.value()
    assert isinstance(key, bytes)
    text = value.decode() if isinstance(value, bytes) else value
    headers = {name: text.decode() for name, text in evidence.headers(message).items()}
    assert headers.pop("_inbox_id") == str(inbox_id)
    return Expected(message.topic() or "", key.decode(), text, headers)


async def _check_receipts(pg: asyncpg.Connection, messages: list[Message]) -> None:
    """One receipt for each record, with its place, key and op."""
    rows = await pg.fetch(
        'SELECT topic, partition, "offset", event_id, inbox_id, key, op FROM relay.deliveries'
    )
    told = {tuple(row)[:3]: tuple(row)[3:] for row in rows}
    assert len(told) == len(rows), "two receipts for one place"
    stands = {}
    for message in messages:
        key = message.key()
        assert isinstance(key, bytes)
        headers = {name: text.decode() for name, text in evidence.headers(message).items()}
        stands[evidence.place(message)] = (
            headers["_event_id"],
            int(headers["_inbox_id"]),
            key.decode(),
            headers["__op"],
        )
    assert told == stands
