"""Partitions that take nothing at the moment, so that their rows wait without being produced."""

from __future__ import annotations

from collections.abc import Callable

from relay.core.record import Record

WHOLE_TOPIC = -1


class Breakers:
    """Open for a while per topic and partition, or per topic when no partition was told.

    ``clock`` gives seconds; any monotonic one.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._closes_at: dict[str, dict[int, float]] = {}

    def open(self, topic: str, partition: int, seconds: float) -> None:
        self._closes_at.setdefault(topic, {})[partition] = self._clock() + seconds

    def is_open(self, record: Record, partitions: int | None) -> bool:
        """Whether the record would go where a breaker is open. Costs nothing when none is."""
        of_topic = self._closes_at.get(record.topic)
        if of_topic is None:
            return False
        now = self._clock()
        for partition in [number for number, end in of_topic.items() if end <= now]:
            del of_topic[partition]
        if not of_topic:
            del self._closes_at[record.topic]
            return False
        if WHOLE_TOPIC in of_topic or not partitions:
            return True
        return partition_of(record.key, partitions) in of_topic


def partition_of(key: bytes, partitions: int) -> int:
    """Where ``murmur2_random`` puts a key: as the Java client's default partitioner does."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Kafka's murmur2 (org.apache.kafka.common.utils.Utils.murmur2), unsigned 32 bit."""
    mask, m, length = 0xFFFFFFFF, 0x5BD1E995, len(data)
    h = (0x9747B28C ^ length) & mask
    whole = length & ~3
    for place in range(0, whole, 4):
        k = int.from_bytes(data[place : place + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    if whole < length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)
