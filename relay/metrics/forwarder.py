"""What a forwarder shows of itself."""

from __future__ import annotations

from prometheus_client.core import Metric

from relay.core.errors import UnusableEvent
from relay.core.transform import DEAD_CODES, SKIP_REASONS
from relay.forwarder import Shared
from relay.metrics.families import counter, from_zero, gauge, histogram

_SKIP_REASONS = (*SKIP_REASONS, "superseded")
_DEAD_CODES = (*DEAD_CODES, *UnusableEvent.CODES, "too_large", "transform_error", "crashed_worker")

_BATCH_ROWS = histogram("relay_forwarder_batch_rows", "Rows of each settled batch.")
_BATCH_SECONDS = histogram(
    "relay_forwarder_batch_seconds", "Time of each settled batch from its note to its commit."
)
_PRODUCE_SECONDS = histogram(
    "relay_forwarder_produce_seconds",
    "Time of each settled batch from its first record to its last report.",
)
_LOST = counter("relay_forwarder_batches_lost", "Batches that did not come to their end.")
_DELIVERED = counter("relay_forwarder_events_delivered", "Events delivered and settled.")
_COPIES = counter(
    "relay_forwarder_dead_letter_copies_delivered", "Copies of dead letters on their topic."
)
_RECORDS = counter(
    "relay_forwarder_records_delivered", "Records acknowledged by Kafka and settled."
)
_SKIPPED = counter("relay_forwarder_events_skipped", "Events skipped, by reason.", "reason")
_DEAD = counter("relay_forwarder_events_dead", "Events that became dead letters, by code.", "code")
_RETRIES = counter(
    "relay_forwarder_retries", "Events put back to be tried again later, by code.", "code"
)
_CHILDREN = counter(
    "relay_forwarder_children_dropped", "List elements without an id, not fanned out."
)
_HALTS = counter("relay_forwarder_sources_halted", "Halts of sources without a dead letter queue.")
_FREED = counter("relay_forwarder_batches_freed", "Batches of dead processes taken over.")
_ENDED = counter("relay_forwarder_backends_ended", "Transactions of frozen processes ended.")
_AWAY = gauge(
    "relay_forwarder_partitions_away", "Topics and partitions that take nothing at the moment."
)


def of_forwarder(shared: Shared) -> list[Metric]:
    counters = shared.counters
    return [
        _BATCH_ROWS.filled(counters.batch_rows),
        _BATCH_SECONDS.filled(counters.batch_seconds),
        _PRODUCE_SECONDS.filled(counters.produce_seconds),
        _LOST.filled(counters.batches_lost),
        _DELIVERED.filled(counters.events_delivered),
        _COPIES.filled(counters.copies_delivered),
        _RECORDS.filled(counters.records),
        _SKIPPED.filled(from_zero(counters.skipped, _SKIP_REASONS)),
        _DEAD.filled(from_zero(counters.dead, _DEAD_CODES)),
        _RETRIES.filled(from_zero(counters.retries, ())),
        _CHILDREN.filled(counters.children_dropped),
        _HALTS.filled(counters.sources_halted),
        _FREED.filled(counters.batches_freed),
        _ENDED.filled(counters.backends_ended),
        _AWAY.filled(shared.delivery.partitions_away),
    ]
