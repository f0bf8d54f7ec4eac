"""The only package that speaks to Kafka."""

from relay.kafka.partitioner import partition_of
from relay.kafka.producer import Flight, Kafka, QueueFullError
from relay.kafka.reader import KafkaRecord, TopicReader
from relay.kafka.verdict import Acknowledged, Failure, Report, Verdict, classify

__all__ = [
    "Acknowledged",
    "Failure",
    "Flight",
    "Kafka",
    "KafkaRecord",
    "QueueFullError",
    "Report",
    "TopicReader",
    "Verdict",
    "classify",
    "partition_of",
]
