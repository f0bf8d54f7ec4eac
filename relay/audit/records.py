"""The topics, read back and compared with the receipts and the stored bytes.

A record is genuine when it is one of those that the stored bytes give under *some* settings of the
source: which records an event had (children, tombstones) and whether the metadata is in them may
have been changed since. Everything else must be equal, byte for byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import asyncpg
import msgspec

from relay.audit.report import KAFKA_CHECKS, Findings, Violation
from relay.core.catalog import FAN_OUTS
from relay.core.record import Record
from relay.core.source import SourceConfig
from relay.core.transform import Deliver, StoredEvent, transform
from relay.kafka import Inspection, KafkaRecord, TopicReader
from relay.store import evidence
from relay.store.tables import QUEUE_DEAD_LETTER_COPY

# So much is held in memory at once, with the bodies that it was made of.
_CHUNK_RECORDS: Final = 200
_CHUNK_BYTES: Final = 4 * 1024 * 1024

_STALLED_SECONDS: Final = 5.0
"""After so long without a record there is none behind the last one."""

_SILENT_SECONDS: Final = 30.0
"""And none before it either: longer than it takes until a partition has another leader."""

_READ_SECONDS: Final = 0.5

# Every record that an event can have: no topic of it is looked at, so any legal name will do.
_WITH, _WITHOUT = (
    SourceConfig(
        source_id=0,
        public_id="",
        name="",
        resources=(),
        default_topic="any",
        metadata=metadata,
        fan_out=tuple(FAN_OUTS),
        tombstones=True,
    )
    for metadata in (True, False)
)


class _Found(msgspec.Struct, frozen=True):
    """A record, and the receipt that speaks of it, if one does."""

    record: KafkaRecord
    receipt: Any


class Records:
    """Compares with one cluster.

    Its methods raise NoBrokerError when Kafka does not answer, ConfigError when librdkafka refuses
    a property.
    """

    def __init__(self, bootstrap_servers: str, properties: Mapping[str, str] | None = None) -> None:
        self._reader = TopicReader(bootstrap_servers, properties)
        self._inspection = Inspection(bootstrap_servers, properties)

    def close(self) -> None:
        self._reader.close()

    async def compare(
        self,
        pg: asyncpg.Connection,
        since: datetime,
        sources: Sequence[int] | None,
        findings: Findings,
    ) -> None:
        """Read to where the topics end now, which is behind every receipt of the snapshot.

        Of a part of the events only the receipts are followed: a record without one may be that of
        another event.
        """
        for check in KAFKA_CHECKS:
            findings.look(check, 0)
        topics = await asyncio.to_thread(self._reader.topics)
        receipts = _Receipts(evidence.delivered(pg, since, sources))
        is_whole = sources is None and since.timestamp() == 0
        await receipts.advance()
        compacted: dict[str, bool] = {}
        while (first := receipts.next) is not None:
            topic, partition = first["topic"], first["partition"]
            findings.look("topics")
            if topics.get(topic, 0) <= partition:
                await _miss_all(receipts, topic in topics, findings)
                continue
            if topic not in compacted:
                compacted[topic] = await self._is_compacted(topic)
            await _Partition(
                self._reader, pg, receipts, findings, compacted[topic], is_whole
            ).compare(topic, partition)

    async def _is_compacted(self, topic: str) -> bool:
        states = await self._inspection.topics([topic])
        return any("compact" in each.settings.get("cleanup.policy", "") for each in states)


class _Receipts:
    """The receipts in Kafka's order, with a look at the next one."""

    def __init__(self, rows: AsyncIterator[Any]) -> None:
        self._rows = rows
        self.next: Any = None

    async def advance(self) -> None:
        self.next = await anext(self._rows, None)

    def of(self, topic: str, partition: int) -> Any:
        """The next one, if it is of this partition."""
        row = self.next
        here = row is not None and (row["topic"], row["partition"]) == (topic, partition)
        return row if here else None


async def _miss_all(receipts: _Receipts, has_topic: bool, findings: Findings) -> None:
    topic, partition = receipts.next["topic"], receipts.next["partition"]
    count = 0
    while receipts.of(topic, partition) is not None:
        count += 1
        await receipts.advance()
    what = f"partition {partition} of the topic {topic}" if has_topic else f"the topic {topic}"
    findings.add(
        Violation(
            check="topics",
            error=f"{what} is gone; {count} receipts name partition {partition} of it",
            topic=topic,
            partition=partition,
        )
    )


class _Partition:
    """One partition of a topic, beside the receipts that name it."""

    def __init__(
        self,
        reader: TopicReader,
        pg: asyncpg.Connection,
        receipts: _Receipts,
        findings: Findings,
        is_compacted: bool,
        is_whole: bool,
    ) -> None:
        self._reader = reader
        self._pg = pg
        self._receipts = receipts
        self._findings = findings
        self._is_compacted = is_compacted
        self._is_whole = is_whole
        self._chunk: list[_Found] = []
        self._size = 0
        self._missed: list[Any] = []

    async def compare(self, topic: str, partition: int) -> None:
        low, high = await asyncio.to_thread(self._reader.watermarks, topic, partition)
        while (receipt := self._receipts.of(topic, partition)) and receipt["offset"] < low:
            self._findings.note("records_expired")
            await self._receipts.advance()
        if receipt is None and not self._is_whole:
            return
        at = low if self._is_whole or receipt is None else receipt["offset"]
        async for record in self._read(topic, partition, at, high):
            await self._meet(record)
        while (receipt := self._receipts.of(topic, partition)) is not None:
            await self._miss(receipt)
            await self._receipts.advance()
        await self._judge()
        await self._judge_missed(topic, partition)

    async def _read(
        self, topic: str, partition: int, at: int, high: int
    ) -> AsyncIterator[KafkaRecord]:
        """To the end, or for as long as receipts speak of more."""
        self._reader.assign_at(topic, partition, at)
        clock = asyncio.get_running_loop().time
        heard = clock()
        while True:
            receipt = self._receipts.of(topic, partition)
            if receipt is None and (at >= high or not self._is_whole):
                return
            batch = await asyncio.to_thread(self._reader.read, _READ_SECONDS)
            for record in batch:
                at = record.offset + 1
                yield record
            if batch:
                heard = clock()
            is_there = receipt is not None and receipt["offset"] < high
            if clock() - heard > (_SILENT_SECONDS if is_there else _STALLED_SECONDS):
                return

    async def _meet(self, record: KafkaRecord) -> None:
        """The next record of the partition: its receipts, and those that Kafka passed over."""
        receipts = self._receipts
        is_named = False
        while (receipt := receipts.of(record.topic, record.partition)) is not None:
            if receipt["offset"] > record.offset:
                break
            if receipt["offset"] < record.offset:
                await self._miss(receipt)
            else:
                if is_named:
                    self._add("records", "two receipts name this record", record, receipt)
                is_named = True
                await self._collect(_Found(record, receipt))
            await receipts.advance()
        if not is_named and self._is_whole:
            await self._collect(_Found(record, None))

    async def _miss(self, receipt: Any) -> None:
        self._missed.append(receipt)
        if len(self._missed) >= _CHUNK_RECORDS:
            await self._judge_missed(receipt["topic"], receipt["partition"])

    async def _judge_missed(self, topic: str, partition: int) -> None:
        """What the topic has no record for has expired, or is a violation."""
        missed, self._missed = self._missed, []
        if not missed:
            return
        # The retention of the topic may have gone on while we read. Asked once for many: the answer
        # stands in line behind a fetch that waits for records, and a deleted topic misses them all.
        low, _ = await asyncio.to_thread(self._reader.watermarks, topic, partition)
        for receipt in missed:
            if self._is_compacted or receipt["offset"] < low:
                self._findings.note("records_expired")
                continue
            self._findings.look("records")
            violation = Violation(
                check="records",
                error="there is no record where its receipt says",
                inbox_id=receipt["inbox_id"],
                event_id=receipt["event_id"],
                topic=topic,
                partition=partition,
                offset=receipt["offset"],
            )
            self._findings.add(violation)

    async def _collect(self, found: _Found) -> None:
        self._chunk.append(found)
        self._size += len(found.record.value or b"")
        if len(self._chunk) >= _CHUNK_RECORDS or self._size >= _CHUNK_BYTES:
            await self._judge()

    async def _judge(self) -> None:
        """Compare what was collected with the bytes that it was made of."""
        chunk, self._chunk, self._size = self._chunk, [], 0
        claimed = {id(each): _claimed_id(each) for each in chunk}
        ids = sorted({each for each in claimed.values() if each is not None})
        events = await evidence.bodies(self._pg, ids) if ids else {}
        made: dict[int, frozenset[tuple[bytes, bytes | None]]] = {}
        for each in chunk:
            event = events.get(claimed[id(each)] or 0)
            if event is not None and event["body"] is not None and event["id"] not in made:
                made[event["id"]] = _possible(event)
            if each.receipt is not None:
                self._findings.look("records")
                self._judge_named(each, event, made)
            else:
                self._judge_repeat(each.record, event, made)

    def _judge_named(
        self, found: _Found, event: Any, made: Mapping[int, Collection[tuple[bytes, bytes | None]]]
    ) -> None:
        record, receipt = found.record, found.receipt
        headers = dict(record.headers)
        is_copy = receipt["kind"] == QUEUE_DEAD_LETTER_COPY
        expected = {"_event_id": receipt["event_id"].encode()}
        if not is_copy:
            expected |= {"_inbox_id": b"%d" % receipt["inbox_id"], "__op": receipt["op"].encode()}
        wrong = [name for name, value in expected.items() if headers.get(name) != value]
        if wrong:
            told = ", ".join(wrong)
            self._add("records", f"another record stands there: {told} differs", record, receipt)
        elif record.key != receipt["key"].encode():
            self._add("records", "its key is not that of the receipt", record, receipt)
        elif event is None or event["body"] is None:
            self._findings.note("records_without_a_body_to_compare")
        elif is_copy:
            if not _is_copy_of(record, event["body"]):
                self._add("records", "the copy is not of the stored bytes", record, receipt)
        elif (record.key, record.value) not in made[event["id"]]:
            error = "its value is not what the stored bytes give"
            self._add("records", error, record, receipt)

    def _judge_repeat(
        self,
        record: KafkaRecord,
        event: Any,
        made: Mapping[int, Collection[tuple[bytes, bytes | None]]],
    ) -> None:
        headers = dict(record.headers)
        if event is None or headers.get("_event_id") != event["event_id"].encode():
            # Of a dead letter's copy, of an event that the retention took, or of somebody else.
            self._findings.note("records_of_no_stored_event")
            return
        self._findings.look("repeats")
        if event["body"] is None:
            self._findings.note("records_without_a_body_to_compare")
        elif (record.key, record.value) not in made[event["id"]]:
            error = "it repeats an event with a value that the stored bytes do not give"
            self._add("repeats", error, record, event)

    def _add(self, check: str, error: str, record: KafkaRecord, about: Any) -> None:
        violation = Violation(
            check=check,
            error=error,
            inbox_id=about["inbox_id"] if "inbox_id" in about else about["id"],
            event_id=about["event_id"],
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
        )
        self._findings.add(violation)


def _claimed_id(found: _Found) -> int | None:
    """Of which event a record is: by its receipt, or else by what it says itself."""
    if found.receipt is not None:
        named: int = found.receipt["inbox_id"]
        return named
    told = dict(found.record.headers).get("_inbox_id", b"")
    return int(told) if told.isdigit() and len(told) < 19 else None


def _possible(event: Any) -> frozenset[tuple[bytes, bytes | None]]:
    """Key and value of every record that the stored bytes can give."""
    created: datetime | None = event["event_created"]
    stored = StoredEvent(
        inbox_id=event["id"],
        event_id=event["event_id"],
        event_type=event["event_type"],
        object_type=event["object_type"],
        object_id=event["object_id"],
        account=event["account"],
        livemode=event["livemode"],
        api_version=event["api_version"],
        created=None if created is None else int(created.timestamp()),
        origin=event["origin"],
        body=event["body"],
    )
    records: list[Record] = []
    for settings in (_WITH, _WITHOUT):
        outcome = transform(stored, settings)
        if isinstance(outcome, Deliver):
            records += outcome.records
    return frozenset((record.key, record.value) for record in records)


def _is_copy_of(record: KafkaRecord, body: bytes) -> bool:
    value = record.value or b""
    is_cut = dict(record.headers).get("__truncated") == b"true"
    return body.startswith(value) if is_cut else body == value
