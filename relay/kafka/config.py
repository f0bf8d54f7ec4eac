"""What the Kafka clients are told: what the promise needs, our defaults, and the user's wishes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException

from relay.core.errors import ConfigError
from relay.kafka import statistics
from relay.settings import librdkafka

# Above any record that the receiver can have taken in, so that the broker gives the verdict on
# size: it alone knows the topic's limit, which counts after compression.
MAX_RECORD_BYTES: Final = 64 * 1024 * 1024

# The promise. Nothing that a user sets may change these; settings refuse them by name.
_FIXED: Final[Mapping[str, Any]] = {
    "acks": "all",
    "enable.idempotence": True,
    "partitioner": "murmur2_random",
    "message.max.bytes": MAX_RECORD_BYTES,
}
_DEFAULTS: Final[Mapping[str, Any]] = {
    "client.id": "relay",
    # Below a batch of ours: it is handed over in one go, waiting longer gains nothing.
    "linger.ms": 1,
    "compression.type": "lz4",
    "queue.buffering.max.kbytes": 256 * 1024,
    "queue.buffering.max.messages": 200_000,
    "socket.keepalive.enable": True,
    "reconnect.backoff.max.ms": 2_000,
    "topic.metadata.refresh.interval.ms": 30_000,
    # For the metrics: with a thousand partitions a report is a megabyte.
    statistics.INTERVAL: 10_000,
}
_PRODUCER_ONLY: Final = (
    *("compression.", "linger.", "queue.buffering.", "batch.", "sticky.", "statistics."),
)
# What only `relay tail` has a use for.
_CONSUMER_ONLY: Final = (
    *("check.crcs", "fetch.", "isolation.level", "max.partition.fetch.bytes", "queued."),
)


def connection(bootstrap_servers: str, properties: Mapping[str, str] | None) -> dict[str, str]:
    """What all clients of a process have in common."""
    return {"bootstrap.servers": bootstrap_servers, **(properties or {})}


def producer(connection: Mapping[str, str], delivery_timeout_seconds: float) -> dict[str, Any]:
    """The configuration of the producer."""
    timeout = {"message.timeout.ms": int(delivery_timeout_seconds * 1000)}
    return {**_DEFAULTS, **_without(_CONSUMER_ONLY, connection), **_FIXED, **timeout}


def admin(
    connection: Mapping[str, str], on_error: Callable[[KafkaError], object] | None = None
) -> dict[str, Any]:
    """The configuration of an admin client, which does not know what only a producer needs."""
    shared = _without((*_PRODUCER_ONLY, *_CONSUMER_ONLY), connection)
    # Its troubles are those of the producer beside it, which tells of them.
    on_error = on_error or (lambda _error: None)
    return {"client.id": "relay", **shared, "log_level": 0, "error_cb": on_error}


def _without(beginnings: tuple[str, ...], properties: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in properties.items() if not k.startswith(beginnings)}


def refused(error: Exception) -> ConfigError:
    """What librdkafka says about a property, naming the variable that sets it."""
    return librdkafka.explain(
        str(error.args[0].str() if isinstance(error, KafkaException) else error)
    )
