"""A small world around the forwarder: sources, events, processes and what arrived in Kafka."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import asyncpg
import msgspec
from confluent_kafka import Message

from relay.core.event import peek
from relay.core.source import SourceConfig
from relay.core.transform import StoredEvent
from relay.forwarder import Forwarder, Recovery, Shared
from relay.kafka import Kafka
from relay.settings import Settings
from relay.store import inbox, queue, sources
from relay.store.engine import Database
from relay.store.inbox import NewEvent
from relay.store.queue import QueueRow
from tests.support.logins import as_login
from tests.support.topics import TopicReader

PARTITIONS = 3

_number = itertools.count(1)


def event(
    event_type: str = "customer.updated",
    object_id: str | None = "cus_1",
    *,
    account: str | None = None,
    livemode: bool = False,
    event_id: str | None = None,
    **fields: Any,
) -> bytes:
    """The body of an event about one object; ``fields`` are further fields of the object."""
    target = {"object": event_type.split(".")[0]} | fields
    if object_id is not None:
        target = {"id": object_id} | target
    envelope: dict[str, Any] = {
        "id": event_id or f"evt_{next(_number)}",
        "object": "event",
        "type": event_type,
        "created": 1_780_000_000,
        "api_version": "2026-08-26.dahlia",
        "livemode": livemode,
        "data": {"object": target},
    }
    if account is not None:
        envelope["account"] = account
    return json.dumps(envelope, indent=2).encode()


def new_event(source_id: int, body: bytes, origin: str = "webhook") -> NewEvent:
    """An event as the receiver would hand it to the inbox."""
    return inbox.new_event(
        peek(body), body, source_id=source_id, origin=origin, signature_header=None
    )


class Process:
    """What one forwarder process would be: a producer, two connections and a recovery."""

    def __init__(self, database: Database, settings: Settings) -> None:
        assert settings.kafka_bootstrap_servers is not None
        self.kafka = Kafka(
            settings.kafka_bootstrap_servers,
            settings.kafka_properties,
            delivery_timeout_seconds=settings.delivery_timeout_seconds,
            auto_create=settings.topic_auto_create,
            partitions=settings.topic_partitions,
            replication_factor=settings.topic_replication_factor,
        )
        self.kafka.start()
        self.shared = Shared(database, self.kafka, settings)
        self.forwarder = Forwarder(self.shared)
        self.recovery = Recovery(self.shared)

    async def drain(self, *, batches: int = 200) -> int:
        """Forward until a batch finds nothing to do; returns how many rows that were."""
        done = 0
        for _ in range(batches):
            count = await self.forwarder.run_once()
            if not count:
                return done
            done += count
        raise AssertionError(f"still not idle after {batches} batches")

    async def close(self) -> None:
        await self.kafka.close()


class World:
    """One database, one cluster, topics of its own; makes sources, events and processes."""

    def __init__(self, database: Database, bootstrap_servers: str, prefix: str) -> None:
        self.database = database
        # What a forwarder process has: a login that may do no more than it must.
        self._own = Database(as_login(database.dsn, "forwarder"))
        self.prefix = prefix
        self.reader = TopicReader(bootstrap_servers)
        self.settings = Settings(
            kafka_bootstrap_servers=bootstrap_servers, topic_partitions=PARTITIONS
        )
        self._processes: list[Process] = []

    async def add_source(self, name: str = "main", **settings: Any) -> SourceConfig:
        given = {"topic_prefix": self.prefix, "insecure": True} | settings
        wanted = SourceConfig(source_id=0, public_id="", name=name, **given)
        async with self.database.begin() as connection:
            made, _ = await sources.create(
                connection, wanted, sealed_secrets=[], sealed_stripe_key=None
            )
        return made.config

    async def change_source(self, config: SourceConfig, **settings: Any) -> None:
        async with self.database.begin() as connection:
            await sources.update_settings(
                connection,
                config.source_id,
                msgspec.structs.replace(config, **settings),
                sealed_secrets=[],
                sealed_stripe_key=None,
            )

    async def put(self, source: SourceConfig, *bodies: bytes, origin: str = "webhook") -> list[int]:
        """Store events in one transaction; returns their inbox ids."""
        events = [new_event(source.source_id, body, origin) for body in bodies]
        async with self.database.driver() as pg, pg.transaction():
            assert all(await inbox.put(pg, events))
            found = await pg.fetch(
                "SELECT inbox_id FROM relay.event_key WHERE source_id = $1 AND event_id = ANY ($2)"
                " ORDER BY inbox_id",
                source.source_id,
                [each.event_id for each in events],
            )
        return [row["inbox_id"] for row in found]

    def process(self, **changes: Any) -> Process:
        """A forwarder process; ``changes`` are settings."""
        made = Process(self._own, msgspec.structs.replace(self.settings, **changes))
        self._processes.append(made)
        return made

    async def close(self) -> None:
        for process in self._processes:
            await process.close()
        await self._own.close()

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        async with self.database.driver() as pg:
            return list(await pg.fetch(statement, *arguments))

    async def value(self, statement: str, *arguments: object) -> Any:
        async with self.database.driver() as pg:
            return await pg.fetchval(statement, *arguments)

    async def states(self) -> dict[str, str]:
        """By event id."""
        rows = await self.fetch("SELECT event_id, state FROM relay.events")
        return {row["event_id"]: row["state"] for row in rows}

    async def state_of(self, inbox_id: int) -> str:
        return str(await self.value("SELECT state FROM relay.events WHERE id = $1", inbox_id))

    async def queued(self) -> list[QueueRow]:
        """What is in line, in order."""
        rows = await self.fetch(
            "SELECT source_id, lane, number, inbox_id, received_at, key_hash, bytes, kind,"
            " attempts, crashes, alone, replay_id FROM relay.queue ORDER BY number"
        )
        return [QueueRow(*row) for row in rows]

    async def waiting(self) -> list[asyncpg.Record]:
        """Why and how long rows of the queue wait, in order."""
        return await self.fetch(
            "SELECT inbox_id, kind, attempts, crashes, alone, last_error_code AS code,"
            " last_error AS error,"
            " extract(epoch FROM visible_at - clock_timestamp())::float8 AS seconds"
            " FROM relay.queue ORDER BY number"
        )

    async def notes(self) -> list[asyncpg.Record]:
        return await self.fetch("SELECT * FROM relay.batch_note ORDER BY started_at")

    async def make_due(self) -> None:
        """As if the time had passed that rows of the queue wait for."""
        async with self.database.driver() as pg:
            await pg.execute(
                "UPDATE relay.queue SET visible_at = clock_timestamp() - '1s'::interval"
            )

    async def age_notes(self, seconds: float = 3600.0) -> None:
        """As if the notes had been written that much earlier."""
        async with self.database.driver() as pg:
            await pg.execute(
                "UPDATE relay.batch_note SET started_at = started_at - make_interval(secs => $1)",
                seconds,
            )

    async def stored(self, inbox_id: int) -> StoredEvent:
        """An event as the forwarder reads it, outside of any queue."""
        row = (
            await self.fetch(
                "SELECT source_id, 0::smallint, 0::bigint, id, received_at, 0::bigint, 0,"
                " 0::smallint, 0::smallint, 0::smallint, false, NULL FROM relay.inbox"
                " WHERE id = $1",
                inbox_id,
            )
        )[0]
        async with self.database.driver() as pg:
            return (await queue.read_events(pg, [QueueRow(*row)]))[inbox_id]

    async def topic(self, name: str, *, at_least: int = 0) -> list[Message]:
        """All records of a topic, by its name without the prefix."""
        return await self.reader.read_topic(self.prefix + name, at_least=at_least)

    async def ids_in(self, name: str, *, at_least: int = 0) -> list[str]:
        """The event ids in a topic, by partition and offset."""
        return [
            header(message, "_event_id") for message in await self.topic(name, at_least=at_least)
        ]


def header(message: Message, name: str) -> str:
    """A header that must be there."""
    found = [value for key, value in message.headers() or [] if key == name]
    assert len(found) == 1, f"{name} is there {len(found)} times"
    return str(bytes(found[0] or b"").decode())


def id_of(body: bytes) -> str:
    return str(json.loads(body)["id"])


def ids_of(bodies: Sequence[bytes]) -> list[str]:
    return [id_of(body) for body in bodies]
