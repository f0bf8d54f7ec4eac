"""What can be seen from outside: PostgreSQL through its public views, and the topics of Kafka.

Read by a plain client of each. The SQL stands here and not in `relay.store`, because a proof that
used the code it is about would prove little.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

import asyncpg
import msgspec

from relay.core.errors import RelayError
from relay.dev.traffic import digest, exact
from relay.kafka import KafkaRecord, TopicReader

_STALLED_SECONDS: Final = 30.0

Place = tuple[str, int, int]
"""Topic, partition and offset."""


class EvidenceError(RelayError):
    """What is there cannot be read."""

    default_code = "evidence"


class Row(msgspec.Struct, frozen=True):
    """An event as PostgreSQL shows it. ``sha256`` is that of the stored bytes, not a stored one."""

    inbox_id: int
    source: str
    event_id: str
    state: str
    reason: str | None
    sha256: bytes
    origin: str = "webhook"
    object_id: str | None = None


class Receipt(msgspec.Struct, frozen=True):
    """A record that PostgreSQL says is in Kafka. ``record`` counts within the event, from 0."""

    inbox_id: int
    record: int
    place: Place
    key: bytes
    produced_at: datetime
    is_dead_letter: bool


class Standing(msgspec.Struct, frozen=True):
    """A record as it stands in Kafka; ``content`` is a digest of its value, None without one."""

    place: Place
    key: bytes | None
    event_id: str | None
    content: bytes | None


class DeadLetters(msgspec.Struct, frozen=True):
    """How many there are of one code; ``stored`` tells whether they are in the inbox."""

    code: str
    stored: bool
    count: int


class Evidence(msgspec.Struct, frozen=True):
    rows: tuple[Row, ...]
    receipts: tuple[Receipt, ...]
    standing: tuple[Standing, ...]
    dead_letters: tuple[DeadLetters, ...]


async def gather(database_url: str, bootstrap_servers: str) -> Evidence:
    """Everything that there is. Raises EvidenceError when Kafka stops answering."""
    standing = asyncio.create_task(asyncio.to_thread(read_topics, bootstrap_servers))
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(_EVENTS)
        receipts = await connection.fetch(_RECEIPTS)
        dead_letters = await connection.fetch(_DEAD_LETTERS)
    finally:
        await connection.close()
    return Evidence(
        rows=tuple(Row(*row) for row in rows),
        receipts=tuple(
            Receipt(inbox_id, record, (topic, partition, offset), key, at, kind == "dead_letter")
            for inbox_id, record, topic, partition, offset, key, at, kind in receipts
        ),
        standing=tuple(await standing),
        dead_letters=tuple(DeadLetters(*row) for row in dead_letters),
    )


async def waiting(connection: asyncpg.Connection) -> int:
    """How many events, and copies of dead letters, are not through yet."""
    return int(await connection.fetchval(_WAITING))


async def snapshots(connection: asyncpg.Connection) -> tuple[int, bool]:
    """How many objects snapshots have brought, and whether one is still running."""
    [(objects, running)] = await connection.fetch(_SNAPSHOTS)
    return int(objects), bool(running)


async def why_waiting(connection: asyncpg.Connection) -> str:
    """What holds the waiting ones up, as far as PostgreSQL knows."""
    rows = await connection.fetch(_WHY_WAITING)
    return "; ".join(f"{count} {state}: {reason}" for state, reason, count in rows)


_EVENTS = """
SELECT e.id, e.source, e.event_id, e.state, coalesce(e.skip_reason, e.last_error_code),
       sha256(relay.body(e.id)), e.origin, e.object_id
FROM relay.events e ORDER BY e.id
"""
_RECEIPTS = """
SELECT inbox_id, record, topic, partition, "offset", convert_to(key, 'UTF8'), produced_at, kind
FROM relay.deliveries ORDER BY inbox_id, record
"""
_DEAD_LETTERS = """
SELECT error_code, inbox_id IS NOT NULL, count(*)::integer
FROM relay.dead_letters GROUP BY 1, 2 ORDER BY 3 DESC, 1
"""
_WAITING = """
SELECT (SELECT coalesce(sum(pending + retrying), 0) FROM relay.lag)
     + (SELECT count(*) FROM relay.dead_letters d
        WHERE d.inbox_id IS NOT NULL
          AND NOT EXISTS (SELECT FROM relay.deliveries x
                          WHERE x.inbox_id = d.inbox_id AND x.kind = 'dead_letter'))
"""
_SNAPSHOTS = """
SELECT coalesce(sum(objects), 0)::bigint, coalesce(bool_or(state = 'running'), false)
FROM relay.snapshots
"""
_WHY_WAITING = """
SELECT state, coalesce(last_error, 'not tried yet'), count(*)::integer
FROM relay.pending_events GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 3
"""


def read_topics(bootstrap_servers: str) -> list[Standing]:
    """Every record of every topic, by `assign`: joining a group takes 20 s on the embedded broker.

    Blocks. Raises EvidenceError when a topic does not give what it says it has.
    """
    reader = TopicReader(bootstrap_servers)
    try:
        topics = {name: count for name, count in reader.topics().items() if name[:2] != "__"}
        left = {place: end for place, end in reader.ends(topics).items() if end > 0}
        reader.assign(topics, from_beginning=True)
        return _read_all(reader, left)
    except ConnectionError as error:
        raise EvidenceError(str(error)) from error
    finally:
        reader.close()


def _read_all(reader: TopicReader, left: dict[tuple[str, int], int]) -> list[Standing]:
    """Read to the given ends of the partitions."""
    found: list[Standing] = []
    gives_up = time.monotonic() + _STALLED_SECONDS
    while left:
        for record in reader.read(0.5):
            found.append(_standing(record))
            partition = (record.topic, record.partition)
            if record.offset + 1 >= left.get(partition, 0):
                left.pop(partition, None)
            gives_up = time.monotonic() + _STALLED_SECONDS
        if time.monotonic() > gives_up:
            raise EvidenceError(f"Kafka does not deliver the records of {_some(left)}")
    return found


def _standing(record: KafkaRecord) -> Standing:
    headers = dict(record.headers)
    event_id = headers.get("_event_id")
    return Standing(
        place=(record.topic, record.partition, record.offset),
        key=record.key,
        event_id=None if event_id is None else event_id.decode("utf-8", "backslashreplace"),
        content=content_of(record.value, headers),
    )


def content_of(value: bytes | None, headers: Mapping[str, bytes]) -> bytes | None:
    """The digest that `relay.dev.traffic` expects; of a dead letter, that of its raw bytes."""
    if value is None:
        return None
    if "__error_code" in headers:
        return sha256(value).digest()
    try:
        parsed: Any = exact(value)
        return digest(parsed)
    except (ValueError, AttributeError):
        return sha256(value).digest()


def _some(left: Mapping[tuple[str, int], int]) -> str:
    names = [f"{topic}/{partition}" for topic, partition in left]
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
