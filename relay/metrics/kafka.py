"""What the Kafka producer shows of itself; most of it are librdkafka's own statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client.core import Metric

from relay.kafka import Broker, Kafka, Statistics
from relay.metrics.families import Family, counter, gauge

_UP: Final = gauge("relay_kafka_up", "0 while every broker is away.")
_REBUILDS: Final = counter("relay_kafka_producer_rebuilds", "Producers replaced by a new one.")

_OF_QUEUE: Final[Mapping[Family, Callable[[Statistics], float]]] = {
    gauge(
        "relay_kafka_queue_messages", "Records in the producer's queue and in flight."
    ): lambda told: told.messages,
    gauge(
        "relay_kafka_queue_bytes", "Bytes of records in the producer's queue and in flight."
    ): lambda told: told.bytes,
    gauge(
        "relay_kafka_queue_limit_messages", "Records that the queue has room for."
    ): lambda told: told.most_messages,
    gauge("relay_kafka_queue_limit_bytes", "Bytes that the queue has room for."): lambda told: (
        told.most_bytes
    ),
}

_OF_BROKER: Final[Mapping[Family, Callable[[Broker], float | None]]] = {
    gauge(
        "relay_kafka_broker_connected", "1 while the producer is connected to it.", "broker"
    ): lambda broker: broker.connected,
    gauge(
        "relay_kafka_broker_requests_waiting", "Requests to be sent or answered.", "broker"
    ): lambda broker: broker.requests_waiting,
    gauge(
        "relay_kafka_broker_round_trip_seconds", "Mean time of a request lately.", "broker"
    ): lambda broker: broker.round_trip_seconds,
    gauge(
        "relay_kafka_broker_round_trip_p99_seconds",
        "Time that 99 of 100 requests stayed below lately.",
        "broker",
    ): lambda broker: broker.round_trip_p99_seconds,
    counter(
        "relay_kafka_broker_errors", "Errors of sending and receiving.", "broker"
    ): lambda broker: broker.errors,
    counter("relay_kafka_broker_timeouts", "Requests that timed out.", "broker"): lambda broker: (
        broker.timeouts
    ),
    counter("relay_kafka_broker_disconnects", "Connections that ended.", "broker"): lambda broker: (
        broker.disconnects
    ),
}


def of_kafka(kafka: Kafka) -> list[Metric]:
    told = kafka.statistics
    brokers = () if told is None else told.brokers
    return [
        _UP.filled(0 if kafka.is_down else 1),
        _REBUILDS.filled(kafka.rebuilds),
        *(family.filled(None if told is None else of(told)) for family, of in _OF_QUEUE.items()),
        *(
            family.filled(((broker.name,), of(broker)) for broker in brokers)
            for family, of in _OF_BROKER.items()
        ),
    ]
