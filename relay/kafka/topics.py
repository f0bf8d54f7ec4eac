"""Topics: which there are, making those that are missing, and what they take."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from relay.kafka import config
from relay.kafka.verdict import Failure, classify

_log = structlog.get_logger("relay.kafka")

# Kafka's own default for max.message.bytes.
_USUAL_LIMIT_BYTES = 1_048_588
_METADATA_SECONDS = 3.0
_CREATE_SECONDS = 5.0
# A topic that was just created may not be known everywhere yet.
_LOOKS, _LOOK_SECONDS = 20, 0.1


class Topics:
    """The topics of a cluster as they were when it was last asked.

    All calls to the cluster are made in threads. They never name a topic that may not exist: a
    broker that makes topics by itself would make it, with its own number of partitions.
    """

    def __init__(
        self,
        connection: Mapping[str, str],
        *,
        auto_create: bool,
        partitions: int,
        replication_factor: int,
    ) -> None:
        self._connection = connection
        self._admin = AdminClient(config.admin(connection))
        self._auto_create = auto_create
        self._partitions = partitions
        self._replication_factor = replication_factor
        self._counts: dict[str, int] = {}
        self._warned: dict[str, int] = {}
        self._lock = threading.Lock()

    def partition_count(self, topic: str) -> int | None:
        """How many partitions a topic had when it was last looked at."""
        return self._counts.get(topic)

    def renew(self) -> None:
        """A new client in place of the old one, as for the producer."""
        self._admin = AdminClient(config.admin(self._connection))

    def forget(self, topic: str) -> None:
        """Look again before the next record: it may have been deleted."""
        self._counts.pop(topic, None)

    async def ensure(self, topics: Iterable[str]) -> dict[str, Failure]:
        """Make the topics that do not exist; returns those that cannot be used and why.

        Raises ConnectionError when no broker answers.
        """
        missing = sorted({topic for topic in topics if topic not in self._counts})
        if not missing:
            return {}
        return await asyncio.to_thread(self._ensure, missing)

    async def refresh(self) -> None:
        """Look at all topics; warns about those whose number of partitions has changed.

        Then a key may go to another partition than before, and its order across them is lost.
        Raises ConnectionError when no broker answers.
        """
        await asyncio.to_thread(self._refresh)

    async def max_message_bytes(self, topic: str) -> int:
        """The topic's limit for one batch of records; Kafka's default when it is not told."""
        return await asyncio.to_thread(self._max_message_bytes, topic)

    def _ensure(self, topics: list[str]) -> dict[str, Failure]:
        # One at a time: several connections want the same new topics at the same moment.
        with self._lock:
            self._refresh()
            missing = [topic for topic in topics if topic not in self._counts]
            if not missing:
                return {}
            if not self._auto_create:
                return self._explain(missing)
            failures = self._create(missing)
            self._await_all([topic for topic in missing if topic not in failures])
            hidden = [t for t in missing if t not in self._counts and t not in failures]
            return failures | self._explain(hidden)

    def _refresh(self) -> None:
        try:
            found = self._admin.list_topics(timeout=_METADATA_SECONDS).topics
        except KafkaException as error:
            raise ConnectionError(f"Kafka does not answer: {error.args[0].str()}") from error
        for name, topic in found.items():
            if topic.error is None and topic.partitions:
                self._note(name, len(topic.partitions))

    def _note(self, topic: str, count: int) -> None:
        known = self._warned.setdefault(topic, count)
        if known != count:
            self._warned[topic] = count
            _log.warning("kafka.partitions_changed", topic=topic, before=known, now=count)
        self._counts[topic] = count

    def _create(self, topics: list[str]) -> dict[str, Failure]:
        wanted = [NewTopic(topic, self._partitions, self._replication_factor) for topic in topics]
        failures: dict[str, Failure] = {}
        futures = self._admin.create_topics(
            wanted, operation_timeout=_CREATE_SECONDS, request_timeout=_CREATE_SECONDS
        )
        for topic, future in futures.items():
            try:
                future.result()
                _log.info("kafka.topic_created", topic=topic, partitions=self._partitions)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    failures[topic] = classify(error.args[0])
        return failures

    def _await_all(self, topics: list[str]) -> None:
        pause = threading.Event()
        for _ in range(_LOOKS):
            self._refresh()
            if all(topic in self._counts for topic in topics):
                return
            pause.wait(_LOOK_SECONDS)

    def _explain(self, topics: list[str]) -> dict[str, Failure]:
        """Why topics are not listed: they do not exist, or this client may not see them."""
        if not topics:
            return {}
        failures: dict[str, Failure] = {}
        asked = self._admin.describe_topics(
            TopicCollection(topics), request_timeout=_METADATA_SECONDS
        )
        for topic, future in asked.items():
            try:
                self._note(topic, len(future.result().partitions))
            except KafkaException as error:
                failures[topic] = classify(error.args[0])
                if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    message = f"the topic {topic!r} does not exist"
                    failures[topic] = Failure("transient", "kafka_unknown_topic", message)
        return failures

    def _max_message_bytes(self, topic: str) -> int:
        resource = ConfigResource(ResourceType.TOPIC, topic)
        try:
            future = self._admin.describe_configs([resource], request_timeout=_METADATA_SECONDS)
            return int(future[resource].result()["max.message.bytes"].value)
        except (KafkaException, KeyError, TypeError, ValueError):
            return _USUAL_LIMIT_BYTES
