"""What PostgreSQL and Kafka say, read with their plain drivers and nothing of the product."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import cast

import asyncpg
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Partition

from tests.acceptance.checker import InboxRow, KafkaRecord, Receipt


async def read_inbox(pg: asyncpg.Connection) -> list[InboxRow]:
    """Every row of the inbox, its bytes hashed here and not by who stored them."""
    states: dict[int, list[str]] = {}
    for inbox_id, state in await pg.fetch("SELECT id, state FROM relay.events"):
        states.setdefault(inbox_id, []).append(state)
    rows = []
    async with pg.transaction():
        async for inbox_id, event_id, body in pg.cursor(
            "SELECT id, event_id, body FROM relay.inbox"
        ):
            digest = hashlib.sha256(body).digest()
            rows.append(InboxRow(inbox_id, event_id, digest, tuple(states.get(inbox_id, ()))))
    return rows


async def read_receipts(pg: asyncpg.Connection) -> list[Receipt]:
    """Every delivered record that has a receipt."""
    rows = await pg.fetch(
        'SELECT inbox_id, event_id, topic, partition, "offset", key FROM relay.deliveries'
    )
    return [
        Receipt(inbox_id, event_id, (topic, partition, offset), key.encode())
        for inbox_id, event_id, topic, partition, offset, key in rows
    ]


async def read_records(bootstrap_servers: str, prefix: str) -> list[KafkaRecord]:
    """Every record of the topics with a prefix."""
    messages = await read_topics(bootstrap_servers, prefix)
    return [
        KafkaRecord(
            place=place(message),
            key=message.key() or b"",
            event_id=headers(message)["_event_id"].decode(),
            sha256=hashlib.sha256(message.value() or b"").digest(),
        )
        for message in messages
    ]


def place(message: Message) -> tuple[str, int, int]:
    return message.topic() or "", message.partition() or 0, message.offset() or 0


def headers(message: Message) -> dict[str, bytes]:
    """By name; it is wrong for a name to be there twice."""
    pairs = cast("list[tuple[str, bytes]]", message.headers() or [])
    assert len(dict(pairs)) == len(pairs), f"a header twice: {pairs}"
    return dict(pairs)


async def read_topics(
    bootstrap_servers: str, prefix: str, *, deadline: float = 120.0
) -> list[Message]:
    """All messages of all topics whose names start with a prefix, to the end of each partition.

    Raises TimeoutError after ``deadline`` seconds.
    """
    return await asyncio.to_thread(_read, bootstrap_servers, prefix, deadline)


def _read(bootstrap_servers: str, prefix: str, deadline: float) -> list[Message]:
    ends = time.monotonic() + deadline
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "acceptance",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    messages: list[Message] = []
    try:
        topics = consumer.list_topics(timeout=30).topics
        partitions = {
            (name, partition)
            for name, topic in topics.items()
            if name.startswith(prefix)
            for partition in topic.partitions
        }
        consumer.assign([Partition(*each, OFFSET_BEGINNING) for each in partitions])
        while partitions:
            for message in consumer.consume(1000, timeout=0.2):
                error = message.error()
                if error is None:
                    messages.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    partitions.discard((message.topic() or "", message.partition() or 0))
                elif not error.retriable():
                    raise KafkaException(error)
            if time.monotonic() >= ends:
                raise TimeoutError(f"not read to the end in {deadline} s: {sorted(partitions)}")
    finally:
        consumer.close()
    return sorted(messages, key=place)
