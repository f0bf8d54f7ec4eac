"""What became of a record, and whose fault it is when it was not acknowledged."""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from confluent_kafka import KafkaError

Verdict = Literal["transient", "refused", "too_large", "invalid_topic", "own"]
"""Whose fault a failure is: nobody's for now, the cluster's set-up, or the record's."""

_TRANSIENT: Final = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._CRIT_SYS_RESOURCE,
        KafkaError._DESTROY,
        KafkaError._FAIL,
        KafkaError._FATAL,
        KafkaError._FENCED,
        KafkaError._INTR,
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
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.DUPLICATE_SEQUENCE_NUMBER,
        KafkaError.ELIGIBLE_LEADERS_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.INCONSISTENT_TOPIC_ID,
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
        KafkaError.PRODUCER_FENCED,
        KafkaError.REBOOTSTRAP_REQUIRED,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.STALE_BROKER_EPOCH,
        KafkaError.STALE_CTRL_EPOCH,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
        # What a broker says of a fault of its own. Were it counted as the record's, a sick broker
        # would kill all that passes while it is sick.
        KafkaError.UNKNOWN,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
TIMED_OUT: Final = "kafka_msg_timed_out"
"""The code of a record that was not acknowledged within the delivery time-out."""
_REFUSED: Final = frozenset(
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
_TOO_LARGE: Final = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE}
)


# librdkafka gets over most of these by itself. When one of them is reported all the same, the
# cluster knows the producer no more (it has lost its state, say), and only a new one can go on.
_PRODUCER_LOST: Final = frozenset(
    {
        KafkaError._FATAL,
        KafkaError._FENCED,
        KafkaError._STATE,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.PRODUCER_FENCED,
        KafkaError.UNKNOWN_PRODUCER_ID,
    }
)


class Failure(msgspec.Struct, frozen=True, gc=False):
    """Why a record was not acknowledged. ``code`` is stable: ``kafka_<name of the error>``.

    With ``producer_lost`` the next records of this producer would fare no better. With
    ``has_arrived`` the record is in Kafka all the same.
    """

    verdict: Verdict
    code: str
    message: str
    partition: int = -1
    producer_lost: bool = False
    has_arrived: bool = False


class Acknowledged(msgspec.Struct, frozen=True, gc=False):
    """Where Kafka has put a record."""

    partition: int
    offset: int


def arrived_somewhere(partition: int) -> Failure:
    """The verdict on a record that Kafka has, without telling where.

    So librdkafka reports a repeat of its own that the broker knew already. It is sent once more,
    because a receipt has an offset.
    """
    message = "acknowledged without an offset"
    return Failure("transient", "kafka_no_offset", message, partition, has_arrived=True)


Report = Acknowledged | Failure | None
"""What is known of a record; None while nothing is."""


def classify(error: KafkaError, partition: int = -1) -> Failure:
    """Whose fault an error of Kafka is."""
    number = error.code()
    verdict: Verdict = "own"
    if number in _REFUSED:
        verdict = "refused"
    elif number in _TRANSIENT or error.fatal():
        verdict = "transient"
    elif number in _TOO_LARGE:
        verdict = "too_large"
    elif number == KafkaError.TOPIC_EXCEPTION:
        verdict = "invalid_topic"
    name = error.name().lstrip("_").lower()
    lost = number in _PRODUCER_LOST or error.fatal()
    return Failure(verdict, f"kafka_{name}", error.str(), partition, lost)
