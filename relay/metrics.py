"""`/metrics` in Prometheus' text format.

Counters are this process's own. What is read from the database (pending, dead, …) is the same in
every process, so a dashboard takes the maximum of it and not the sum. Labels are bounded: names of
sources, and words of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from relay.forwarder import ForwarderCounters
from relay.kafka import Kafka
from relay.receiver import Receiver
from relay.store import status
from relay.store.engine import Database
from relay.store.failures import DATABASE_FAILURES


class Metrics:
    """Collects what this process knows. Parts that do not run here are left out."""

    def __init__(
        self,
        database: Database,
        *,
        receiver: Receiver | None,
        forwarder: ForwarderCounters | None,
        kafka: Kafka | None,
    ) -> None:
        self._database = database
        self._receiver = receiver
        self._forwarder = forwarder
        self._kafka = kafka

    async def render(self) -> bytes:
        """The whole page. While the database is away its figures are missing, never 0."""
        build = [((version("relay"),), 1.0)]
        metrics = [_gauge("relay_build_info", "Version of this process.", build, "version")]
        if self._receiver is not None:
            metrics += _of_receiver(self._receiver)
        if self._forwarder is not None:
            metrics += _of_forwarder(self._forwarder)
        if self._kafka is not None:
            up = 0 if self._kafka.is_down else 1
            metrics.append(_gauge("relay_kafka_up", "0 while every broker is away.", up))
        metrics += await self._of_database()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected(metrics))
        return generate_latest(registry)

    async def _of_database(self) -> list[Metric]:
        try:
            async with self._database.begin() as connection:
                lag = await status.lag(connection)
                ahead = await status.partitions_ahead_days(connection)
        except DATABASE_FAILURES:
            return [_gauge("relay_database_up", "Whether the database answered.", 0)]
        oldest = [
            ((row["source"],), row["oldest_pending_seconds"])
            for row in lag
            if row["oldest_pending_seconds"] is not None
        ]
        metrics = [
            _gauge("relay_database_up", "Whether the database answered.", 1),
            _gauge(
                "relay_oldest_pending_seconds",
                "Age of the oldest unfinished event.",
                oldest,
                "source",
            ),
        ]
        for name, column, text in (
            ("relay_pending_events", "pending", "Events that wait."),
            ("relay_retrying_events", "retrying", "Events that failed and wait for a retry."),
            ("relay_dead_letters", "dead", "Open dead letters."),
        ):
            values = [((row["source"],), row[column]) for row in lag]
            metrics.append(_gauge(name, text, values, "source"))
        halted = [((row["source"],), row["halted_at"] is not None) for row in lag]
        metrics.append(
            _gauge("relay_source_halted", "1 while a source stands still.", halted, "source")
        )
        if ahead is not None:
            text = "How far ahead the inbox has partitions."
            metrics.append(_gauge("relay_partitions_ahead_days", text, ahead))
        return metrics

    def routes(self) -> list[HTTPRouteHandler]:
        """The Litestar handler of /metrics."""

        @get("/metrics", include_in_schema=False)
        async def metrics() -> Response[bytes]:
            return Response(await self.render(), media_type=CONTENT_TYPE_LATEST)

        return [metrics]


def _of_receiver(receiver: Receiver) -> list[Metric]:
    counters = receiver.counters
    answers = [((str(code), result), count) for (code, result), count in counters.answers.items()]
    batches = [
        (("committed",), counters.batches),
        (("repeated",), counters.batches_retried),
        (("failed",), counters.batches_failed),
    ]
    return [
        _counter(
            "relay_http_answers", "Answers by status and result.", answers, "status", "result"
        ),
        _counter("relay_received_bytes", "Bytes of bodies read to the end.", counters.body_bytes),
        _counter("relay_commit_batches", "Group commits by result.", batches, "result"),
        _counter("relay_commit_rows", "Rows in committed batches.", counters.rows),
        _counter("relay_commit_seconds", "Time in group commits.", counters.commit_seconds),
        _gauge("relay_http_connections", "Open connections.", counters.connections),
        _gauge("relay_bytes_in_flight", "Bytes of bodies held.", receiver.budget.in_flight),
    ]


def _of_forwarder(counters: ForwarderCounters) -> list[Metric]:
    batches = [(("settled",), counters.batches), (("lost",), counters.batches_lost)]
    return [
        _counter("relay_batches", "Forwarded batches by result.", batches, "result"),
        _counter("relay_batch_seconds", "Time from note to commit.", counters.batch_seconds),
        _counter("relay_events_delivered", "Events delivered.", counters.events_delivered),
        _counter("relay_records", "Records acknowledged and settled.", counters.records),
        _labelled("relay_events_skipped", "Events skipped.", counters.events_skipped, "reason"),
        _labelled("relay_events_dead", "Events that died.", counters.events_dead, "code"),
        _labelled(
            "relay_events_put_aside", "Events to be tried later.", counters.events_put_aside, "code"
        ),
        _counter("relay_sources_halted", "Halts of sources.", counters.sources_halted),
        _counter("relay_lanes_freed", "Batches of dead processes.", counters.lanes_freed),
        _counter("relay_backends_ended", "Frozen transactions ended.", counters.backends_ended),
    ]


# Pairs of label values and a figure; a figure alone has no labels.
_Values = Iterable[tuple[tuple[str, ...], float]] | float


def _labelled(name: str, text: str, values: Mapping[str, int], label: str) -> Metric:
    return _counter(name, text, (((value,), count) for value, count in values.items()), label)


def _counter(name: str, text: str, values: _Values, *labels: str) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), values)


def _gauge(name: str, text: str, values: _Values, *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), values)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, values: _Values) -> Metric:
    if isinstance(values, int | float):
        values = [((), values)]
    for of_label, value in values:
        family.add_metric(of_label, value)
    return family


class _Collected(Collector):
    """Hands over metrics that were collected already: the library's own way is not async."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
