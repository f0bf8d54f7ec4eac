"""What is left when all is over, read with plain drivers and nothing of the product."""

from __future__ import annotations

import hashlib

import asyncpg
from confluent_kafka import Message

from tests.acceptance import evidence
from tests.acceptance.checker import InboxRow, KafkaRecord, Receipt

DEAD_LETTER_TOPIC = "dead_letter"


class Row(InboxRow, frozen=True, kw_only=True):
    """A row of the inbox; times are Unix seconds."""

    origin: str
    skip_reason: str | None
    error_code: str | None
    object_id: str | None
    received_at: float


class Proof(Receipt, frozen=True, kw_only=True):
    """A receipt; `kind` tells the copies on the dead letter topic from records."""

    produced_at: float
    kind: str


class Record(KafkaRecord, frozen=True, kw_only=True):
    """A record; the time is that at which a broker wrote it."""

    at: float


async def read_inbox(pg: asyncpg.Connection) -> list[Row]:
    """Every row, its bytes hashed here."""
    states: dict[int, list[str]] = {}
    about: dict[int, tuple[str | None, str | None]] = {}
    for row in await pg.fetch("SELECT id, state, skip_reason, last_error_code FROM relay.events"):
        states.setdefault(row["id"], []).append(row["state"])
        about[row["id"]] = (row["skip_reason"], row["last_error_code"])
    rows = []
    async with pg.transaction():
        async for row in pg.cursor(
            "SELECT id, event_id, origin, object_id, received_at, body FROM relay.inbox"
        ):
            skip_reason, error_code = about.get(row["id"], (None, None))
            rows.append(
                Row(
                    inbox_id=row["id"],
                    event_id=row["event_id"],
                    sha256=hashlib.sha256(row["body"]).digest(),
                    states=tuple(states.get(row["id"], ())),
                    origin=row["origin"],
                    skip_reason=skip_reason,
                    error_code=error_code,
                    object_id=row["object_id"],
                    received_at=row["received_at"].timestamp(),
                )
            )
    return rows


async def read_receipts(pg: asyncpg.Connection) -> list[Proof]:
    rows = await pg.fetch(
        'SELECT inbox_id, event_id, topic, partition, "offset", key, produced_at, kind'
        " FROM relay.deliveries"
    )
    return [
        Proof(
            inbox_id=row["inbox_id"],
            event_id=row["event_id"],
            place=(row["topic"], row["partition"], row["offset"]),
            key=row["key"].encode(),
            produced_at=row["produced_at"].timestamp(),
            kind=row["kind"],
        )
        for row in rows
    ]


async def read_records(bootstrap_servers: str, prefix: str) -> list[Record]:
    """Every record of the topics with a prefix but the copies of dead letters."""
    messages = await evidence.read_topics(bootstrap_servers, prefix)
    return [_record(each) for each in messages if not _is_copy(each)]


def _record(message: Message) -> Record:
    return Record(
        place=evidence.place(message),
        key=message.key() or b"",
        event_id=evidence.headers(message)["_event_id"].decode(),
        sha256=hashlib.sha256(message.value() or b"").digest(),
        at=message.timestamp()[1] / 1000,
    )


def _is_copy(message: Message) -> bool:
    return (message.topic() or "").endswith(DEAD_LETTER_TOPIC)
