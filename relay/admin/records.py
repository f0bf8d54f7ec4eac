"""The records of an event as they stand in Kafka: read back by the places in its receipts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from relay.admin import bodies
from relay.admin.answers import Refusal
from relay.kafka import KafkaRecord, TopicReader
from relay.kafka.trouble import NoBrokerError
from relay.settings import Settings
from relay.store.proof import Proof

MOST: Final = 20
"""Records of one answer."""

# Of the first answer of a broker, and of all records together.
_BROKER_SECONDS, _READ_SECONDS = 4.0, 8.0
# A client of its own for each reading: few at a time.
_AT_ONCE: Final = 2
# One record is wanted, not what comes after it.
_ONE_AT_A_TIME: Final = {"queued.min.messages": "1", "queued.max.messages.kbytes": "65536"}

Found = Literal["as produced", "gone", "another", "unread"]


class Header(msgspec.Struct, frozen=True):
    """One header of a record; escapes stand for bytes that are no text."""

    name: str
    value: str


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What stands where a receipt says.

    ``found`` is ``gone`` when there is no record at that offset (any more), ``another`` when there
    is one that is not of this event, and ``unread`` when Kafka did not send it in time. ``value``
    is the beginning of it as text, null for a tombstone; ``value_complete`` tells whether it is
    all.
    """

    topic: str
    partition: int
    offset: int
    replay_id: str | None
    found: Found
    timestamp: int | None = None
    key: str | None = None
    headers: list[Header] = []
    value: str | None = None
    value_bytes: int | None = None
    value_complete: bool = True


class Records(msgspec.Struct, frozen=True):
    """Those of the receipts from a place on; ``next`` is the ``start`` of more, null at the end."""

    records: list[Standing]
    next: int | None


class Reading:
    """Reads records back where this process was told of a Kafka."""

    def __init__(self, settings: Settings) -> None:
        self._bootstrap = settings.kafka_bootstrap_servers
        self._properties: Mapping[str, str] = {**settings.kafka_properties, **_ONE_AT_A_TIME}
        self._few = asyncio.Semaphore(_AT_ONCE)

    @property
    def is_possible(self) -> bool:
        """Whether there is a Kafka to ask."""
        return self._bootstrap is not None

    async def of_event(self, proof: Proof, start: int) -> Records:
        """The records of an event from one of its receipts on.

        Raises Refusal when there is no Kafka, when it is away, and for a redacted event.
        """
        if proof.redaction is not None:
            raise Refusal(409, "It was redacted: what Kafka may still hold of it is not shown.")
        if self._bootstrap is None:
            raise Refusal(
                409, "This process was not told of a Kafka: RELAY_KAFKA_BOOTSTRAP_SERVERS."
            )
        sent = [each for each in proof.receipts if each["topic"] is not None]
        wanted = sent[start : start + MOST]
        async with self._few:
            try:
                read = await asyncio.to_thread(self._read, self._bootstrap, proof, wanted)
            except NoBrokerError as error:
                raise Refusal(503, f"{error}.", code="kafka_away") from error
        return Records(read, start + MOST if len(sent) > start + MOST else None)

    def _read(
        self, bootstrap: str, proof: Proof, receipts: Sequence[dict[str, Any]]
    ) -> list[Standing]:
        reader = TopicReader(bootstrap, self._properties)
        try:
            topics = reader.topics(_BROKER_SECONDS)
            ends = time.monotonic() + _READ_SECONDS
            return [_one(reader, topics, each, proof, ends) for each in receipts]
        finally:
            reader.close()


def _one(
    reader: TopicReader,
    topics: Mapping[str, int],
    receipt: dict[str, Any],
    proof: Proof,
    ends: float,
) -> Standing:
    topic, partition, offset = receipt["topic"], receipt["partition"], receipt["offset"]
    place = Standing(
        topic=topic,
        partition=partition,
        offset=offset,
        replay_id=receipt["replay_id"],
        found="gone",
    )
    if partition >= topics.get(topic, 0):
        return place
    try:
        there = reader.find(topic, partition, offset, max(ends - time.monotonic(), 0.1))
    except TimeoutError:
        return msgspec.structs.replace(place, found="unread")
    if there is None:
        return place
    if not _is_of(there, receipt, proof):
        return msgspec.structs.replace(place, found="another")
    return _shown(place, there)


def _is_of(record: KafkaRecord, receipt: dict[str, Any], proof: Proof) -> bool:
    """Of a topic that was made again the same place holds something else."""
    named: bytes = proof.event["event_id"].encode("utf-8")
    key: bytes = receipt["key"].encode("utf-8")
    return dict(record.headers).get("_event_id") == named and record.key == key


def _shown(place: Standing, record: KafkaRecord) -> Standing:
    value = record.value
    shown = None if value is None else value[: bodies.MOST_BYTES]
    return msgspec.structs.replace(
        place,
        found="as produced",
        timestamp=record.timestamp,
        key=None if record.key is None else bodies.text_of(record.key),
        headers=[Header(name, bodies.text_of(text)) for name, text in record.headers],
        value=None if shown is None else bodies.text_of(shown),
        value_bytes=None if value is None else len(value),
        value_complete=shown == value,
    )
