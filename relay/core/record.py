"""One Kafka record, before it is produced."""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, frozen=True, gc=False):
    """What the forwarder hands to Kafka.

    `value` is None for a tombstone. `op` is the Debezium-style letter that the receipt keeps:
    `c`, `u`, `d` or `r`, and the empty string for a copy on the dead letter topic.
    """

    topic: str
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    op: str
