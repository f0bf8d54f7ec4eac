"""What a receiver shows of itself."""

from __future__ import annotations

from prometheus_client.core import Metric

from relay.core.errors import UnusableEvent
from relay.metrics.families import counter, from_zero, gauge, histogram
from relay.receiver import ANSWERS, Receiver

_DEAD_CODES = (*UnusableEvent.CODES, "unstorable")

_REQUESTS = counter(
    "relay_receiver_requests",
    "Webhook requests answered, by status and result.",
    "status",
    "result",
)
_BODIES = counter("relay_receiver_body_bytes", "Bytes of bodies that were read to their end.")
_STORED = counter("relay_receiver_events_stored", "Events that were new and are durably stored.")
_DUPLICATES = counter("relay_receiver_events_duplicate", "Events that the inbox held already.")
_DEAD = counter(
    "relay_receiver_events_dead",
    "Events stored as dead letters when they arrived, by code.",
    "code",
)
_COMMIT_ROWS = histogram("relay_receiver_commit_rows", "Rows of each group commit.")
_COMMIT_SECONDS = histogram("relay_receiver_commit_seconds", "Time that each group commit took.")
_RETRIES = counter(
    "relay_receiver_commit_retries",
    "Group commits repeated after a deadlock, a serialisation failure or a change of the schema.",
)
_FAILURES = counter("relay_receiver_commit_failures", "Group commits answered with 503.")
_SAMPLES = counter(
    "relay_receiver_refused_samples", "Refused requests, kept as a sample or not.", "result"
)
_CRASHES = counter("relay_receiver_crashes", "Requests that ran into a bug.")
_CONNECTIONS = gauge("relay_receiver_connections", "Open connections.")
_IN_FLIGHT = gauge("relay_receiver_requests_in_flight", "Requests in hand.")
_HELD = gauge("relay_receiver_in_flight_bytes", "Bytes that the requests in hand hold.")
_LIMIT = gauge("relay_receiver_in_flight_limit_bytes", "Bytes that the requests in hand may hold.")
_QUEUED = gauge("relay_receiver_queued_events", "Events that wait for a group commit.")


def of_receiver(receiver: Receiver) -> list[Metric]:
    counters = receiver.counters
    answers = dict.fromkeys(ANSWERS, 0) | dict(counters.answers)
    samples = {"kept": counters.refused_samples, "dropped": counters.refused_dropped}
    return [
        _REQUESTS.filled(((str(code), word), count) for (code, word), count in answers.items()),
        _BODIES.filled(counters.body_bytes),
        _STORED.filled(counters.stored),
        _DUPLICATES.filled(counters.duplicates),
        _DEAD.filled(from_zero(counters.dead, _DEAD_CODES)),
        _COMMIT_ROWS.filled(counters.commit_rows),
        _COMMIT_SECONDS.filled(counters.commit_seconds),
        _RETRIES.filled(counters.batches_retried),
        _FAILURES.filled(counters.batches_failed),
        _SAMPLES.filled(from_zero(samples, ())),
        _CRASHES.filled(counters.crashes),
        _CONNECTIONS.filled(counters.connections),
        _IN_FLIGHT.filled(receiver.requests_in_flight),
        _HELD.filled(receiver.budget.in_flight),
        _LIMIT.filled(receiver.budget.total),
        _QUEUED.filled(receiver.queued),
    ]
