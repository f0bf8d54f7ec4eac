"""What a cluster tells about itself and its topics, for people who look for what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AclOperation,
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicMetadata,
)

from relay.kafka import config
from relay.kafka.trouble import NoBrokerError, Troubles
from relay.kafka.verdict import Failure, classify

_SECONDS = 5.0


class Cluster(msgspec.Struct, frozen=True):
    """The brokers that are there. ``operations`` is None where the cluster does not tell them."""

    brokers: int
    operations: frozenset[str] | None


class TopicState(msgspec.Struct, frozen=True, kw_only=True):
    """One topic. What the cluster does not tell is None, or missing among the ``settings``."""

    name: str
    partitions: int
    replication_factor: int
    without_leader: int
    in_sync: int
    """Of the partition that has the fewest replicas in sync."""
    settings: Mapping[str, str] = {}
    operations: frozenset[str] | None = None


class Inspection:
    """Asks a cluster, in threads, and never about a topic by name that may not exist.

    Raises ConfigError when librdkafka refuses a property.
    """

    def __init__(self, bootstrap_servers: str, properties: Mapping[str, str] | None = None) -> None:
        connection = config.connection(bootstrap_servers, properties)
        self._troubles = Troubles(connection.get("security.protocol"))
        try:
            self._admin = AdminClient(config.admin(connection, on_error=self._troubles.note))
        except (KafkaException, ValueError) as error:
            raise config.refused(error) from error

    async def cluster(self) -> Cluster:
        """The brokers, and what this client may do to the cluster.

        Raises NoBrokerError.
        """
        return await asyncio.to_thread(self._cluster)

    async def topics(self, names: Collection[str]) -> list[TopicState]:
        """Those of the topics that exist."""
        return await asyncio.to_thread(self._topics, names)

    async def try_creating(
        self, names: Collection[str], *, partitions: int, replication_factor: int
    ) -> dict[str, Failure]:
        """Why topics that were not seen could not be made; none is.

        Not for brokers that do not know of a trial and would make them.
        """
        return await asyncio.to_thread(self._try, names, partitions, replication_factor)

    async def settings_of_new_topics(self) -> Mapping[str, str]:
        """The settings of a broker, which are the defaults of topics; empty if it does not tell."""
        return await asyncio.to_thread(self._broker_settings)

    def _list(self) -> Mapping[str, TopicMetadata]:
        try:
            found = self._admin.list_topics(timeout=_SECONDS).topics
        except KafkaException as error:
            # The time-out itself says nothing; what librdkafka met with on its way does.
            self._admin.poll(0)
            raise NoBrokerError(self._troubles.why()) from error
        # One that this client may not see comes with an error and without partitions.
        return {name: topic for name, topic in found.items() if topic.partitions}

    def _cluster(self) -> Cluster:
        self._list()  # which tells best why nobody answers
        try:
            told = self._admin.describe_cluster(
                include_authorized_operations=True, request_timeout=_SECONDS
            ).result()
        except KafkaException:
            return Cluster(len(self._admin.list_topics(timeout=_SECONDS).brokers), None)
        return Cluster(len(told.nodes), _names(told.authorized_operations))

    def _topics(self, names: Collection[str]) -> list[TopicState]:
        found = {name: topic for name, topic in self._list().items() if name in names}
        settings = self._settings(found)
        operations = self._operations(found)
        return [
            _state(name, topic, settings.get(name, {}), operations.get(name))
            for name, topic in sorted(found.items())
        ]

    def _settings(self, names: Collection[str]) -> dict[str, Mapping[str, str]]:
        asked = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        if not asked:
            return {}
        told: dict[str, Mapping[str, str]] = {}
        answers = self._admin.describe_configs(asked, request_timeout=_SECONDS)
        for resource, future in answers.items():
            try:
                told[resource.name] = _values(future.result())
            except KafkaException:
                continue
        return told

    def _operations(self, names: Collection[str]) -> dict[str, frozenset[str] | None]:
        if not names:
            return {}
        told: dict[str, frozenset[str] | None] = {}
        answers = self._admin.describe_topics(
            TopicCollection(list(names)),
            include_authorized_operations=True,
            request_timeout=_SECONDS,
        )
        for name, future in answers.items():
            try:
                told[name] = _names(future.result().authorized_operations)
            except KafkaException:
                continue
        return told

    def _try(
        self, names: Collection[str], partitions: int, replication_factor: int
    ) -> dict[str, Failure]:
        if not names:
            return {}
        refused: dict[str, Failure] = {}
        wanted = [NewTopic(name, partitions, replication_factor) for name in names]
        answers = self._admin.create_topics(wanted, request_timeout=_SECONDS, validate_only=True)
        for name, future in answers.items():
            try:
                future.result()
            except KafkaException as error:
                refused[name] = classify(error.args[0])
                if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    hidden = "it exists, and this client may not see it"
                    refused[name] = Failure("refused", "kafka_hidden_topic", hidden)
        return refused

    def _broker_settings(self) -> Mapping[str, str]:
        try:
            broker = next(iter(self._admin.list_topics(timeout=_SECONDS).brokers), None)
            resource = ConfigResource(ResourceType.BROKER, str(broker))
            answers = self._admin.describe_configs([resource], request_timeout=_SECONDS)
            return _values(answers[resource].result())
        except KafkaException:
            return {}


def _state(
    name: str,
    topic: TopicMetadata,
    settings: Mapping[str, str],
    operations: frozenset[str] | None,
) -> TopicState:
    parts = topic.partitions.values()
    return TopicState(
        name=name,
        partitions=len(parts),
        replication_factor=max((len(part.replicas) for part in parts), default=0),
        without_leader=sum(part.leader < 0 for part in parts),
        in_sync=min((len(part.isrs) for part in parts), default=0),
        settings=settings,
        operations=operations,
    )


def _names(operations: Collection[AclOperation] | None) -> frozenset[str] | None:
    return None if operations is None else frozenset(each.name for each in operations)


def _values(entries: Mapping[str, object]) -> Mapping[str, str]:
    values = {name: getattr(entry, "value", None) for name, entry in entries.items()}
    return {name: value for name, value in values.items() if isinstance(value, str)}
