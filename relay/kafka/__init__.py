"""The only package that speaks to Kafka."""

from relay.kafka.inspection import Cluster, Inspection, TopicState
from relay.kafka.partitioner import partition_of
from relay.kafka.producer import Flight, Kafka, QueueFullError
from relay.kafka.reader import KafkaRecord, TopicReader
from relay.kafka.statistics import Broker, Statistics
from relay.kafka.trouble import NoBrokerError
from relay.kafka.verdict import TIMED_OUT, Acknowledged, Failure, Report, Verdict, classify

__all__ = [
    "TIMED_OUT",
    "Acknowledged",
    "Broker",
    "Cluster",
    "Failure",
    "Flight",
    "Inspection",
    "Kafka",
    "KafkaRecord",
    "NoBrokerError",
    "QueueFullError",
    "Report",
    "Statistics",
    "TopicReader",
    "TopicState",
    "Verdict",
    "classify",
    "partition_of",
]
