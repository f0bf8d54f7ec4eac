"""Keep the latest state of every object in a SQLite file, from the topics of relay.

    python consumer.py --bootstrap-servers localhost:9092 --database shop.db customer unknown

A recipe to copy: it needs confluent-kafka and Python's own sqlite3. It may be killed at any moment
and started again; records that come twice, late or again by a replay leave the tables right.
docs/consumers.md in relay's repository says why, and relay's tests run this very file.
"""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

BATCH = 500  # records in a transaction, at most
LOOK_SECONDS = 30  # how soon a new topic or partition is noticed

SCHEMA = """
CREATE TABLE IF NOT EXISTS object (
    source TEXT, account TEXT, topic TEXT, key TEXT, type TEXT,
    highest INTEGER NOT NULL,  -- the highest _inbox_id that was seen
    inbox_id INTEGER NOT NULL, event_id TEXT NOT NULL, op TEXT NOT NULL, deleted INTEGER NOT NULL,
    list_truncated INTEGER NOT NULL, value TEXT,  -- as it came: exact numbers, exact strings
    PRIMARY KEY (source, account, topic, key, type)
);
CREATE TABLE IF NOT EXISTS seen (
    source TEXT, topic TEXT, key TEXT, event_id TEXT, replay_id TEXT,
    PRIMARY KEY (source, topic, key, event_id, replay_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS place (
    topic TEXT, partition INTEGER, next INTEGER NOT NULL, PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
"""

# A replay is applied although it is older: an operator wants that state to be seen again.
UPSERT = """
INSERT INTO object VALUES (:source, :account, :topic, :key, :type, :inbox_id, :inbox_id, :event_id,
    :op, :deleted, :list_truncated, :value)
ON CONFLICT DO UPDATE SET
    highest = max(highest, excluded.highest), inbox_id = excluded.inbox_id,
    event_id = excluded.event_id, op = excluded.op, deleted = excluded.deleted,
    list_truncated = excluded.list_truncated, value = excluded.value
WHERE excluded.inbox_id > highest OR :replay_id <> ''
"""

# The `d` record before it has said the same, unless log compaction has removed that one.
TOMBSTONE = """
UPDATE object SET highest = max(highest, :inbox_id), inbox_id = :inbox_id, event_id = :event_id,
    op = :op, deleted = 1
WHERE source = :source AND account = :account AND topic = :topic AND key = :key
  AND (:inbox_id > highest OR :replay_id <> '')
"""


class Record(NamedTuple):
    """What counts of a record of relay; texts are empty where there is none."""

    source: str
    account: str
    topic: str
    key: str
    type: str
    inbox_id: int
    event_id: str
    replay_id: str
    op: str
    deleted: bool
    list_truncated: bool
    value: str | None


def read(message: Message) -> Record | None:
    """The record, or None for what relay has not made, or has put on the dead letter topic."""
    headers = {name: text(value) for name, value in dict(message.headers() or []).items()}
    topic, key, value = message.topic(), message.key(), message.value()
    if topic is None or key is None or not {"_source", "_inbox_id", "_event_id"} <= headers.keys():
        return None
    fields = {} if value is None else json.loads(value)
    return Record(
        source=headers["_source"],
        account=headers.get("_account", ""),
        topic=topic,
        key=text(key),
        # Objects of several types may share an id, and a topic: a plan and its price.
        type=str(fields.get("object") or ""),
        inbox_id=int(headers["_inbox_id"]),
        event_id=headers["_event_id"],
        replay_id=headers.get("_replay_id", ""),
        op=headers.get("__op", ""),
        deleted=value is None or headers.get("__op") == "d",
        list_truncated=headers.get("__list_truncated") == "true",
        value=None if value is None else text(value),
    )


def text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def apply(database: sqlite3.Connection, record: Record) -> None:
    """Once per event and object; what else an event is to set off belongs behind the first look."""
    fields = record._asdict()
    if not database.execute(
        "INSERT OR IGNORE INTO seen VALUES (:source, :topic, :key, :event_id, :replay_id)", fields
    ).rowcount:
        return
    database.execute(TOMBSTONE if record.value is None else UPSERT, fields)


def store(database: sqlite3.Connection, messages: Sequence[Message]) -> None:
    """The records and how far they reach, in one transaction: both are there, or neither is."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        for message in messages:
            record = read(message)
            if record is not None:
                apply(database, record)
            else:
                place = f"{message.topic()}[{message.partition()}] at {message.offset()}"
                print(f"passed over, not a record of relay: {place}", file=sys.stderr)
            database.execute(
                "INSERT OR REPLACE INTO place VALUES (?, ?, ?)",
                (message.topic(), message.partition(), (message.offset() or 0) + 1),
            )


def reached(database: sqlite3.Connection) -> dict[tuple[str, int], int]:
    """The offset to read next, by topic and partition."""
    rows = database.execute("SELECT topic, partition, next FROM place")
    return {(topic, partition): offset for topic, partition, offset in rows}


def follow(
    consumer: Consumer, database: sqlite3.Connection, topics: Sequence[str]
) -> set[tuple[str, int]]:
    """Read every partition that there is now, each from where the tables stand."""
    places = reached(database)
    known = consumer.list_topics(timeout=10).topics
    wanted = {
        (topic, each) for topic in topics if topic in known for each in known[topic].partitions
    }
    if wanted != {(each.topic, each.partition) for each in consumer.assignment()}:
        consumer.assign(
            [TopicPartition(*each, places.get(each, OFFSET_BEGINNING)) for each in sorted(wanted)]
        )
    return wanted


def run(
    consumer: Consumer, database: sqlite3.Connection, topics: Sequence[str], *, until_end: bool
) -> None:
    """Read for ever, or until every partition that there is was read to its end."""
    unread = follow(consumer, database, topics)
    looked = time.monotonic()
    while unread or not until_end:
        messages = []
        for message in consumer.consume(BATCH, timeout=0.5):
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                unread.discard((message.topic() or "", message.partition() or 0))
            elif error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise KafkaException(error)
            else:  # a broker is away, or a topic: the client goes on by itself when it is back
                print(error.str(), file=sys.stderr)
        if messages:
            store(database, messages)
        if time.monotonic() - looked > LOOK_SECONDS:
            follow(consumer, database, topics)
            looked = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--database", required=True, help="the SQLite file")
    parser.add_argument("--until-end", action="store_true", help="stop at what is there now")
    parser.add_argument("topics", nargs="+", metavar="TOPIC")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    database = sqlite3.connect(given.database, isolation_level=None)
    database.executescript(SCHEMA)
    consumer = Consumer(
        {
            "bootstrap.servers": given.bootstrap_servers,
            # Required, and not used: the places are in the database, not with the group.
            "group.id": "consumer.py",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            # Where a place is gone (retention, a topic made anew) everything is read again.
            "auto.offset.reset": "earliest",
        }
    )
    try:
        run(consumer, database, given.topics, until_end=given.until_end)
    finally:
        consumer.close()
        database.close()


if __name__ == "__main__":
    main()
