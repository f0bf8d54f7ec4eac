"""Reading topics back, from outside and without a consumer group."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic


async def make_topics(bootstrap_servers: str, names: Iterable[str], *, partitions: int = 6) -> None:
    """Make topics before anybody produces to them.

    Of a topic that two processes make at the same moment the embedded broker now and then forgets
    the first record, which it has acknowledged (once in 1,800 tries on a busy machine).
    """
    wanted = [NewTopic(name, partitions) for name in names]
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for made in admin.create_topics(wanted).values():
        await asyncio.to_thread(made.result)


class TopicReader:
    """Reads whole topics of one cluster.

    It assigns the partitions itself: joining a group would take 20 s on the embedded broker.
    """

    def __init__(self, bootstrap_servers: str) -> None:
        self._client: dict[str, str | int | float | bool] = {"bootstrap.servers": bootstrap_servers}
        self._admin = AdminClient(self._client)

    async def topics(self) -> set[str]:
        """The names of all topics."""
        return set(await asyncio.to_thread(self._partitions))

    async def read_topic(
        self, topic: str, *, at_least: int = 0, deadline: float = 30.0
    ) -> list[Message]:
        """Everything in the topic, by partition and offset.

        It reads to the end of every partition, and on until there are `at_least` messages. A topic
        that does not exist is empty. Raises TimeoutError after `deadline` seconds.
        """
        return await asyncio.to_thread(self._read, topic, at_least, deadline)

    def _partitions(self) -> dict[str, list[int]]:
        # All topics, not this one by name: a broker may make a topic that it is asked about.
        metadata = self._admin.list_topics(timeout=10)
        return {name: sorted(topic.partitions) for name, topic in metadata.topics.items()}

    def _read(self, topic: str, at_least: int, deadline: float) -> list[Message]:
        end = time.monotonic() + deadline
        partitions = self._partitions().get(topic)
        while partitions is None:
            if at_least == 0:
                return []
            if time.monotonic() >= end:
                raise TimeoutError(f"there is no topic {topic} after {deadline} s")
            time.sleep(0.05)
            partitions = self._partitions().get(topic)
        consumer = Consumer(
            self._client
            | {
                "group.id": "none",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                # An empty partition is told at once, not after half a second.
                "fetch.wait.max.ms": 10,
                "fetch.message.max.bytes": 64 * 1024 * 1024,
                "receive.message.max.bytes": 128 * 1024 * 1024,
            }
        )
        try:
            consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
            messages = _drain(consumer, set(partitions), at_least, end)
        finally:
            consumer.close()
        if messages is None:
            raise TimeoutError(f"{topic} has not been read to {at_least} messages in {deadline} s")
        return sorted(messages, key=lambda m: (m.partition() or 0, m.offset() or 0))


def _drain(
    consumer: Consumer, unfinished: set[int], at_least: int, end: float
) -> list[Message] | None:
    messages: list[Message] = []
    while unfinished or len(messages) < at_least:
        if time.monotonic() >= end:
            return None
        for message in consumer.consume(1000, timeout=0.1):
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                unfinished.discard(message.partition())
            elif not error.retriable():
                raise KafkaException(error)
    return messages
