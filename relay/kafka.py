"""The only module that speaks to Kafka.

The producer is the plain one of confluent-kafka, idempotent, with ``acks=all``; its delivery
reports come from a thread of its own and wake the event loop once per batch.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, cast

import msgspec
import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from relay.core.errors import ConfigError
from relay.core.record import Record

_log = structlog.get_logger("relay.kafka")

Verdict = Literal["transient", "refused", "too_large", "invalid_topic", "own"]
"""Whose fault a failure is: nobody's for now, the cluster's set-up, or the record's."""

# Above any record that the receiver can have taken in, so that the broker gives the verdict on
# size: it alone knows the topic's limit, which counts after compression.
MAX_RECORD_BYTES = 64 * 1024 * 1024
_QUEUE_KBYTES = 256 * 1024

# The promise. Nothing that a user sets may change these; settings refuse them by name.
_FIXED: Mapping[str, str | int | float | bool] = {
    "acks": "all",
    "enable.idempotence": True,
    "partitioner": "murmur2_random",
    "message.max.bytes": MAX_RECORD_BYTES,
}
_DEFAULTS: Mapping[str, str | int | float | bool] = {
    "client.id": "relay",
    # Below a batch of ours: it is handed over in one go, waiting longer gains nothing.
    "linger.ms": 1,
    "compression.type": "lz4",
    "queue.buffering.max.kbytes": _QUEUE_KBYTES,
    "queue.buffering.max.messages": 200_000,
    "socket.keepalive.enable": True,
    "reconnect.backoff.max.ms": 2_000,
    "topic.metadata.refresh.interval.ms": 30_000,
}

_TRANSIENT = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._DESTROY,
        KafkaError._FATAL,
        KafkaError._ISR_INSUFF,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._PURGE_INFLIGHT,
        KafkaError._PURGE_QUEUE,
        KafkaError._QUEUE_FULL,
        KafkaError._RESOLVE,
        KafkaError._RETRY,
        KafkaError._STATE,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._TRANSPORT,
        KafkaError._UNKNOWN_BROKER,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._WAIT_CACHE,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.DUPLICATE_SEQUENCE_NUMBER,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_CONTROLLER,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
_REFUSED = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_REQUIRED_ACKS,
        KafkaError.POLICY_VIOLATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.SECURITY_DISABLED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.UNSUPPORTED_VERSION,
    }
)
_TOO_LARGE = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE}
)


class Failure(msgspec.Struct, frozen=True):
    """Why a record was not acknowledged. ``code`` is stable: ``kafka_<name of the error>``."""

    verdict: Verdict
    code: str
    message: str
    partition: int = -1


class Acknowledged(msgspec.Struct, frozen=True):
    """Where Kafka has put a record."""

    partition: int
    offset: int


Report = Acknowledged | Failure | None
"""What is known of a record; None while nothing is."""


class QueueFullError(Exception):
    """The producer's queue is full: back-pressure."""


def classify(error: KafkaError, partition: int = -1) -> Failure:
    """Whose fault an error of Kafka is."""
    number = error.code()
    verdict: Verdict = "own"
    if number in _TRANSIENT or error.fatal():
        verdict = "transient"
    elif number in _REFUSED:
        verdict = "refused"
    elif number in _TOO_LARGE:
        verdict = "too_large"
    elif number == KafkaError.TOPIC_EXCEPTION:
        verdict = "invalid_topic"
    name = error.name().lstrip("_").lower()
    return Failure(verdict, f"kafka_{name}", error.str(), partition)


class Flight:
    """The records of one batch on their way: collects the reports and wakes the loop once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._landed = asyncio.Event()
        self._outstanding = 1  # until seal(): a report may come while the batch is handed over
        self._lock = threading.Lock()
        self.reports: list[Report] = []

    def add(self) -> Callable[[KafkaError | None, Message], None]:
        """A place for one more record; returns what takes its report."""
        with self._lock:
            self._outstanding += 1
        self.reports.append(None)
        return partial(self._report, len(self.reports) - 1)

    def refuse(self, failure: Failure) -> None:
        """The record added last was not taken by the client."""
        self.reports[-1] = failure
        self._count_down()

    def _report(self, place: int, error: KafkaError | None, message: Message) -> None:
        partition = message.partition()
        offset = message.offset()
        if error is not None:
            self.reports[place] = classify(error, -1 if partition is None else partition)
        elif partition is None or offset is None or offset < 0:
            self.reports[place] = Failure(
                "transient", "kafka_no_offset", "report without an offset"
            )
        else:
            self.reports[place] = Acknowledged(partition, offset)
        self._count_down()

    def _count_down(self) -> None:
        with self._lock:
            self._outstanding -= 1
            landed = self._outstanding == 0
        if landed:
            self._loop.call_soon_threadsafe(self._landed.set)

    async def land(self) -> None:
        """Wait for the report of every record; each comes within the delivery time-out."""
        self._count_down()
        await self._landed.wait()


class Kafka:
    """One producer with what belongs to it: topics, health and the thread of the reports.

    ``properties`` are librdkafka's. Raises ConfigError when it refuses one of them.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        properties: Mapping[str, str] | None = None,
        *,
        delivery_timeout_seconds: float = 10.0,
        auto_create: bool = True,
        partitions: int = 6,
        replication_factor: int = -1,
    ) -> None:
        self._connection = {"bootstrap.servers": bootstrap_servers, **(properties or {})}
        self._config: dict[str, Any] = {
            **_DEFAULTS,
            **self._connection,
            **_FIXED,
            "message.timeout.ms": int(delivery_timeout_seconds * 1000),
            "error_cb": self._on_error,
        }
        self._auto_create = auto_create
        self._partitions = partitions
        self._replication_factor = replication_factor
        self._partition_counts: dict[str, int] = {}
        self._down = threading.Event()
        self._fatal = threading.Event()
        self._stopped = threading.Event()
        self._poller: threading.Thread | None = None
        self._producer = self._make(Producer)
        self._admin = self._make_admin()

    def _make(self, kind: type[Producer]) -> Producer:
        try:
            return kind(self._config)
        except (KafkaException, ValueError) as error:
            raise config_error(error) from error

    def _make_admin(self) -> AdminClient:
        producer_only = ("compression.type", "linger.ms", "queue.buffering", "batch.")
        admin = {
            key: value
            for key, value in {**self._connection, "client.id": "relay"}.items()
            if not key.startswith(producer_only)
        }
        config: dict[str, Any] = {**admin, "error_cb": lambda _error: None}
        return AdminClient(config)

    def start(self) -> None:
        """Start the thread that serves the delivery reports."""
        self._stopped.clear()
        self._poller = threading.Thread(target=self._serve, name="kafka-reports", daemon=True)
        self._poller.start()

    def _serve(self) -> None:
        while not self._stopped.is_set():
            self._producer.poll(0.2)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal.set()
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._down.set()
        _log.warning("kafka.error", error=error.name(), message=error.str())

    @property
    def is_down(self) -> bool:
        """Every broker is away; claiming would only make rows wait elsewhere."""
        return self._down.is_set()

    def mark_down(self) -> None:
        """The caller has seen a whole batch fail for want of a broker."""
        self._down.set()

    async def probe(self) -> bool:
        """Ask the cluster whether it is there; clears ``is_down`` when it is."""
        try:
            await asyncio.to_thread(self._producer.list_topics, "__relay_probe", 3.0)
        except KafkaException as error:
            if classify(error.args[0]).verdict == "transient":
                return False
        self._down.clear()
        return True

    def produce(self, record: Record, flight: Flight) -> None:
        """Hand a record to the client; its report goes to ``flight``.

        Raises QueueFullError, and then ``flight`` does not know of the record.
        """
        report = flight.add()
        try:
            self._producer.produce(
                record.topic,
                value=record.value,
                key=record.key,
                headers=list(record.headers),
                on_delivery=report,
            )
        except BufferError:
            flight.refuse(Failure("transient", "kafka_queue_full", "the producer's queue is full"))
            flight.reports.pop()
            raise QueueFullError from None
        except KafkaException as error:
            flight.refuse(classify(error.args[0]))

    async def purge(self) -> None:
        """Throw away what has not been acknowledged; its reports come as transient failures."""
        await asyncio.to_thread(self._producer.purge, True, True, False)

    @property
    def needs_rebuild(self) -> bool:
        return self._fatal.is_set()

    async def rebuild(self) -> None:
        """A new producer after a fatal error. Nothing of the old one may be in flight."""
        await asyncio.to_thread(self._stop_poller)
        self._fatal.clear()
        self._producer = self._make(Producer)
        self.start()
        _log.warning("kafka.producer_rebuilt")

    def _stop_poller(self) -> None:
        self._stopped.set()
        if self._poller is not None:
            self._poller.join()
            self._poller = None

    async def close(self) -> None:
        """Stop. The caller has let its flights land; whatever else there is, is thrown away."""
        self._producer.purge(True, True, False)
        await asyncio.to_thread(self._stop_poller)
        await asyncio.to_thread(self._producer.flush, 1.0)

    def partition_count(self, topic: str) -> int | None:
        """How many partitions a topic had when it was last looked at."""
        return self._partition_counts.get(topic)

    def forget_topic(self, topic: str) -> None:
        """Look again before the next record: it may have been deleted."""
        self._partition_counts.pop(topic, None)

    async def ensure_topics(self, topics: Iterable[str]) -> dict[str, Failure]:
        """Make the topics that do not exist; returns those that cannot be used and why."""
        missing = sorted({topic for topic in topics if topic not in self._partition_counts})
        if not missing:
            return {}
        return await asyncio.to_thread(self._ensure, missing)

    def _ensure(self, topics: list[str]) -> dict[str, Failure]:
        try:
            self._refresh_topics()
            missing = [topic for topic in topics if topic not in self._partition_counts]
            if not missing:
                return {}
            if not self._auto_create:
                return {topic: _unknown_topic(topic) for topic in missing}
            failures = self._create(missing)
            self._await_leaders([topic for topic in missing if topic not in failures])
        except KafkaException as error:
            return dict.fromkeys(topics, classify(error.args[0]))
        for topic in topics:
            if topic not in self._partition_counts and topic not in failures:
                failures[topic] = _unknown_topic(topic)
        return failures

    def _refresh_topics(self) -> None:
        for name, topic in self._admin.list_topics(timeout=5.0).topics.items():
            if topic.error is None and topic.partitions:
                self._partition_counts[name] = len(topic.partitions)

    def _create(self, topics: list[str]) -> dict[str, Failure]:
        wanted = [NewTopic(topic, self._partitions, self._replication_factor) for topic in topics]
        failures: dict[str, Failure] = {}
        futures = self._admin.create_topics(wanted, operation_timeout=5.0, request_timeout=8.0)
        for topic, future in futures.items():
            try:
                future.result()
                _log.info("kafka.topic_created", topic=topic, partitions=self._partitions)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    failures[topic] = classify(error.args[0])
        return failures

    def _await_leaders(self, topics: list[str]) -> None:
        # A topic that was just created may have no leader yet; its first records would be retried
        # by librdkafka, so a bounded number of looks is enough.
        for _ in range(20):
            self._refresh_topics()
            if all(topic in self._partition_counts for topic in topics):
                return
            self._stopped.wait(0.1)

    async def max_message_bytes(self, topic: str) -> int | None:
        """The topic's limit for one batch of records, or None when it cannot be learnt."""
        return await asyncio.to_thread(self._max_message_bytes, topic)

    def _max_message_bytes(self, topic: str) -> int | None:
        resource = ConfigResource(ResourceType.TOPIC, topic)
        try:
            future = self._admin.describe_configs([resource], request_timeout=5.0)[resource]
            return int(future.result()["max.message.bytes"].value)
        except (KafkaException, KeyError, TypeError, ValueError):
            return None


def _unknown_topic(topic: str) -> Failure:
    return Failure("transient", "kafka_unknown_topic", f"the topic {topic!r} does not exist")


def config_error(error: Exception) -> ConfigError:
    """What librdkafka says about a property, naming the variable that sets it."""
    text = str(error.args[0].str() if isinstance(error, KafkaException) else error)
    return ConfigError(
        f"Kafka client: {text}. Properties are set by RELAY_KAFKA_<NAME>, with underscores for dots"
    )


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
        try:
            self._consumer = Consumer(
                {
                    **(properties or {}),
                    "bootstrap.servers": bootstrap_servers,
                    "group.id": "relay-tail",
                    "enable.auto.commit": False,
                    "enable.partition.eof": False,
                    "allow.auto.create.topics": False,
                    "error_cb": lambda _error: None,
                }
            )
        except (KafkaException, ValueError) as error:
            raise config_error(error) from error

    def topics(self) -> dict[str, int]:
        """All topics with their numbers of partitions. Raises ConnectionError."""
        try:
            found = self._consumer.list_topics(timeout=10.0).topics
        except KafkaException as error:
            raise ConnectionError(f"Kafka does not answer: {error.args[0].str()}") from error
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

    def ends(self, topics: Mapping[str, int]) -> dict[tuple[str, int], int]:
        """The offset after the last record of each partition."""
        return {
            (topic, partition): self._consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=10.0
            )[1]
            for topic, count in topics.items()
            for partition in range(count)
        }

    def read(self, seconds: float) -> list[KafkaRecord]:
        """The records that arrive within a time; returns early when there are some."""
        messages = self._consumer.consume(num_messages=500, timeout=seconds)
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
