"""Reading topics back, for people and for the demo."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Final, cast

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaException,
    Message,
    TopicPartition,
)

from relay.kafka import config
from relay.kafka.trouble import NoBrokerError, Trouble, Troubles

_ANSWER_SECONDS: Final = 10.0
_LEADER_SECONDS: Final = 30.0
"""In which a partition has a leader again that was moved, or whose broker is gone."""
_PAUSE_SECONDS: Final = 0.5


class KafkaRecord(msgspec.Struct, frozen=True):
    """A record as it stands in a topic. ``timestamp`` is in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class TopicReader:
    """Reads topics without joining a consumer group, so that it disturbs nobody."""

    def __init__(self, bootstrap_servers: str, properties: Mapping[str, str] | None = None) -> None:
        self._troubles = Troubles((properties or {}).get("security.protocol"))
        try:
            self._consumer = Consumer(
                {
                    **(properties or {}),
                    "bootstrap.servers": bootstrap_servers,
                    "group.id": "relay-tail",
                    "enable.auto.commit": False,
                    "enable.partition.eof": False,
                    "allow.auto.create.topics": False,
                    # Where the place to read from has gone meanwhile: on from what is left.
                    "auto.offset.reset": "earliest",
                    "log_level": 0,
                    "error_cb": self._troubles.note,
                }
            )
        except (KafkaException, ValueError) as error:
            raise config.refused(error) from error

    def topics(self, seconds: float = 10.0) -> dict[str, int]:
        """All topics with their numbers of partitions.

        Raises NoBrokerError.
        """
        try:
            found = self._consumer.list_topics(timeout=seconds).topics
        except KafkaException as error:
            self._consumer.poll(0)  # what was told meanwhile is waiting there
            raise NoBrokerError(self._troubles.why()) from error
        return {name: len(topic.partitions) for name, topic in found.items()}

    def assign(self, topics: Mapping[str, int], *, from_beginning: bool) -> None:
        """Read these topics (name → number of partitions) from their begin or from now on."""
        offset = OFFSET_BEGINNING if from_beginning else OFFSET_END
        self._consumer.assign(
            [
                TopicPartition(topic, partition, offset)
                for topic, count in topics.items()
                for partition in range(count)
            ]
        )

    def assign_at(self, topic: str, partition: int, offset: int) -> None:
        """Read one partition from an offset on, and nothing else."""
        self._consumer.assign([TopicPartition(topic, partition, offset)])

    def find(self, topic: str, partition: int, offset: int, seconds: float) -> KafkaRecord | None:
        """The record at one place, None when there is none any more.

        Raises TimeoutError when that is not known after ``seconds``. Nothing else is read after it.
        """
        self.assign_at(topic, partition, offset)
        gives_up = time.monotonic() + seconds
        while (left := gives_up - time.monotonic()) > 0:
            message = self._consumer.poll(left)
            if message is None or message.error() is not None:
                continue
            found = _record(message)
            # Where the place is gone, Kafka goes on with what is behind it, or at the beginning.
            return found if found.offset == offset else None
        raise TimeoutError(f"nothing came from {topic}/{partition} within {seconds:.0f} s")

    def watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset that Kafka still has, and the one after the last.

        For the second, see ``ends``. Raises NoBrokerError when the partition has no leader for
        long; one that is moved, as brokers do by themselves after a restart, is found.
        """
        place = TopicPartition(topic, partition)
        gives_up = time.monotonic() + _LEADER_SECONDS
        while True:
            try:
                low, high = self._consumer.get_watermark_offsets(place, timeout=_ANSWER_SECONDS)
            except KafkaException as error:
                if time.monotonic() < gives_up:
                    # librdkafka asks anew who leads, and leaves it to us to ask that one.
                    time.sleep(_PAUSE_SECONDS)
                    continue
                fix = f"look at partition {partition} of the topic {topic}, and try again"
                raise NoBrokerError(Trouble(error.args[0].str(), fix)) from error
            return int(low), int(high)

    def ends(self, topics: Mapping[str, int]) -> dict[tuple[str, int], int]:
        """The offset after the last record of each partition.

        The embedded broker tells one after the first record of the last *batch* instead.
        """
        return {
            (topic, partition): self._consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=_ANSWER_SECONDS
            )[1]
            for topic, count in topics.items()
            for partition in range(count)
        }

    def read(self, seconds: float) -> list[KafkaRecord]:
        """The records that arrive within a time; returns early when there are some."""
        # consume() alone would wait for 500 or for the end of the time.
        first = self._consumer.poll(seconds)
        if first is None:
            return []
        messages = [first, *self._consumer.consume(num_messages=499, timeout=0)]
        return [_record(message) for message in messages if message.error() is None]

    async def stream(self) -> AsyncIterator[KafkaRecord]:
        """Records for as long as the caller wants them."""
        while True:
            for record in await asyncio.to_thread(self.read, 0.5):
                yield record

    def close(self) -> None:
        self._consumer.close()


def _record(message: Message) -> KafkaRecord:
    key, value = message.key(), message.value()
    headers = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    return KafkaRecord(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        timestamp=message.timestamp()[1],
        key=key if key is None or isinstance(key, bytes) else key.encode(),
        value=value if value is None or isinstance(value, bytes) else value.encode(),
        headers=tuple((name, text or b"") for name, text in headers),
    )
