"""From claimed rows to reports: transform, topics, produce, wait."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence

import msgspec
import structlog

from relay.core.record import Record
from relay.core.transform import Deliver, Skip, dead_letter_record, transform
from relay.forwarder.breakers import WHOLE_TOPIC, Away, Breakers
from relay.forwarder.counters import Counters
from relay.forwarder.outcome import Plan
from relay.kafka import (
    TIMED_OUT,
    Acknowledged,
    Failure,
    Flight,
    Kafka,
    QueueFullError,
    Report,
    partition_of,
)
from relay.settings import Settings
from relay.store.receipts import DeadLetterHead
from relay.store.tables import QUEUE_DEAD_LETTER_COPY

_log = structlog.get_logger("relay.forwarder")

# Transforming and producing hold the event loop: let others run now and then.
_ROWS_PER_TURN = 100
_RECORDS_PER_TURN = 500
# After its time-out a report may take another moment: librdkafka looks once a second.
_REPORT_SECONDS = 2.0
# Batches are only claimed while a broker answers. When none of so many in a row gets through, it
# may be the client that is stuck: seen with a cluster that came back without its topics. So it may
# be with one partition alone: of a topic that was deleted and made again librdkafka goes on asking
# the leader of before, for ever (its issue 4898; the breakers know for how long nothing arrived).
_FRUITLESS_BATCHES = 3
# What a record needs besides its value, when a dead letter has to be cut to fit its topic.
_RECORD_OVERHEAD_BYTES = 4096
_LEAST_COPY_BYTES = 1024

Letters = Mapping[int, DeadLetterHead]
"""By inbox id, the dead letters of the rows that carry a copy."""


class Window(msgspec.Struct, frozen=True):
    """Until when a batch may hand over records and has to be at its end, on the loop's clock."""

    opened: float
    produce_until: float
    end: float

    def is_fresh(self, now: float) -> bool:
        """Whether most of the time for producing is still ahead."""
        return now - self.opened < (self.produce_until - self.opened) / 4


class Delivery:
    """Sends one batch after the other; shared by the connections of a process."""

    def __init__(self, kafka: Kafka, settings: Settings, counters: Counters) -> None:
        self._kafka = kafka
        self._counters = counters
        self._probe_seconds = settings.probe_seconds
        self._fruitless = 0
        self._clock = asyncio.get_running_loop().time
        self._breakers = Breakers(
            self._clock, random.random, settings.delivery_timeout_seconds + _REPORT_SECONDS
        )

    @property
    def partitions_away(self) -> int:
        """Partitions, and topics as a whole, that take nothing at the moment."""
        return len(self._breakers)

    async def send(self, plans: Sequence[Plan], letters: Letters, window: Window) -> None:
        """Transform and produce the plans in order, and wait for all reports.

        Plans that were not reached in time keep no records: their rows stay in line.
        """
        flight = Flight(asyncio.get_running_loop())
        await self._hand_over(plans, letters, flight, window)
        await self._land(flight, window)
        for plan in plans:
            plan.reports = flight.reports[plan.first : plan.first + plan.handed]
        self._learn(plans)

    async def _hand_over(
        self, plans: Sequence[Plan], letters: Letters, flight: Flight, window: Window
    ) -> None:
        stopped: set[tuple[int, int, int]] = set()
        for count, plan in enumerate(plans, start=1):
            if count % _ROWS_PER_TURN == 0:
                await asyncio.sleep(0)
            if self._clock() > window.produce_until or self._kafka.is_down:
                return
            if plan.key in stopped:
                continue
            self._counters.children_dropped += _transform(plan, letters)
            await self._check_topics(plan)
            if plan.verdict is None:
                plan.first = len(flight.reports)
                plan.handed = await self._produce(plan.records, flight, window)
            if plan.stops_its_key:
                stopped.add(plan.key)

    async def _produce(self, records: Sequence[Record], flight: Flight, window: Window) -> int:
        """Hand records over in order; returns how many, fewer when the time for that is over."""
        handed = 0
        while handed < len(records) and self._clock() <= window.produce_until:
            try:
                self._kafka.produce(records[handed], flight)
            except QueueFullError:
                await asyncio.sleep(0.01)
            else:
                handed += 1
                if handed % _RECORDS_PER_TURN == 0:
                    await asyncio.sleep(0)
        return handed

    async def _land(self, flight: Flight, window: Window) -> None:
        landing = asyncio.ensure_future(flight.land())
        try:
            _, late = await asyncio.wait({landing}, timeout=max(window.end - self._clock(), 0.1))
            if late:
                await self._kafka.purge()
                # Reports that still do not come are missing ones: their rows stay in line.
                await asyncio.wait({landing}, timeout=_REPORT_SECONDS)
        finally:
            landing.cancel()

    async def send_alone(self, plan: Plan, letters: Letters, window: Window) -> None:
        """Produce a row so that a verdict on size is about one record of it.

        A dead letter that its topic does not take is cut until it fits.
        """
        self._counters.children_dropped += _transform(plan, letters)
        await self._check_topics(plan)
        if plan.verdict is not None:
            return
        plan.reports = await self._send_apart(plan.records, window)
        if plan.row.kind == QUEUE_DEAD_LETTER_COPY and any(map(_is_too_large, plan.reports)):
            plan.reports = await self._send_cut(plan, letters, window)
        plan.handed = len(plan.reports)
        self._learn([plan])

    async def _send_apart(self, records: Sequence[Record], window: Window) -> Sequence[Report]:
        """The reports up to the first failure; what is too large together is sent in halves.

        One oversize record fails all that travel in its request, and so do many small ones that
        only together are too large for their topic.
        """
        flight = Flight(asyncio.get_running_loop())
        await self._produce(records, flight, window)
        await self._land(flight, window)
        reports = flight.reports
        if len(records) == 1 or not any(map(_is_too_large, reports)):
            return reports
        half = len(records) // 2
        reports = [*await self._send_apart(records[:half], window)]
        if len(reports) == half and all(isinstance(each, Acknowledged) for each in reports):
            reports += await self._send_apart(records[half:], window)
        return reports

    async def _send_cut(self, plan: Plan, letters: Letters, window: Window) -> Sequence[Report]:
        told = await self._kafka.topics.max_message_bytes(plan.records[0].topic)
        whole = len(plan.records[0].value or b"")
        limit = min(whole // 2, told - _RECORD_OVERHEAD_BYTES)
        while True:
            limit = max(limit, _LEAST_COPY_BYTES)
            plan.records = (_copy(plan, letters, limit),)
            reports = await self._send_apart(plan.records, window)
            if not any(map(_is_too_large, reports)) or limit == _LEAST_COPY_BYTES:
                return reports
            limit //= 2

    async def _check_topics(self, plan: Plan) -> None:
        """Put a plan aside whose records have nowhere to go at the moment."""
        for record in plan.records:
            away = await self._look(record)
            if away is not None:
                plan.verdict, plan.wait_seconds = away.failure, away.seconds
                return

    async def _look(self, record: Record) -> Away | None:
        topics, topic = self._kafka.topics, record.topic
        away = self._breakers.look(topic, WHOLE_TOPIC)
        if away is None and topics.partition_count(topic) is None:
            away = await self._ensure(topic)
        if away is None and self._breakers.concern(topic):
            partition = partition_of(record.key, topics.partition_count(topic) or 1)
            away = self._breakers.look(topic, partition)
        return away

    async def _ensure(self, topic: str) -> Away | None:
        try:
            failure = (await self._kafka.topics.ensure([topic])).get(topic)
        except ConnectionError as error:
            self._kafka.mark_down()
            return Away(Failure("transient", "kafka_away", str(error)))
        if failure is None:
            return None
        self._break(topic, failure)
        return Away(failure)

    def _break(self, topic: str, failure: Failure) -> None:
        if failure.verdict == "refused":
            self._breakers.open(topic, WHOLE_TOPIC, failure, self._probe_seconds)
        elif failure.verdict == "transient":
            self._breakers.open(topic, failure.partition, failure)

    def _learn(self, plans: Sequence[Plan]) -> None:
        """Open breakers where Kafka takes nothing, close them where it does."""
        arrived: set[tuple[str, int]] = set()
        failed: dict[tuple[str, int], Failure] = {}
        for plan in plans:
            for record, report in zip(plan.records, plan.reports, strict=False):
                match report:
                    case Acknowledged() | Failure(has_arrived=True):
                        arrived.add((record.topic, report.partition))
                    case Failure(verdict="transient" | "refused"):
                        failed.setdefault((record.topic, report.partition), report)
        for (topic, _), failure in failed.items():
            self._break(topic, failure)
            # It may have been deleted.
            self._kafka.topics.forget(topic)
        for topic, partition in arrived - failed.keys():
            self._breakers.close(topic, partition)
        if arrived:
            self._fruitless = 0
        elif any(each.verdict == "transient" for each in failed.values()):
            self._fruitless += 1
            self._kafka.mark_down()
        silent = [
            place
            for place, failure in failed.items()
            if failure.code == TIMED_OUT and self._breakers.is_silent(*place)
        ]
        for topic, partition in silent:
            _log.warning("forwarder.partition_silent", topic=topic, partition=partition)
        if (
            silent
            or self._fruitless >= _FRUITLESS_BATCHES
            or any(f.producer_lost for f in failed.values())
        ):
            self._fruitless = 0
            self._breakers.try_anew()
            self._kafka.mark_lost()


def _transform(plan: Plan, letters: Letters) -> int:
    """Set the plan's records or verdict; whatever goes wrong is the row's own failure.

    Returns how many elements of a list have no record of their own for want of an id.
    """
    if plan.verdict is not None:
        return 0
    if plan.event.body is None:
        plan.verdict = Skip("redacted")
        return 0
    try:
        if plan.row.kind == QUEUE_DEAD_LETTER_COPY:
            if plan.source.dlq_topic:
                plan.records = (_copy(plan, letters, None),)
            else:
                plan.verdict = Skip("discarded")
            return 0
        outcome = transform(plan.event, plan.source)
    except Exception as error:
        _log.exception("forwarder.transform_failed", inbox_id=plan.row.inbox_id)
        plan.verdict = Failure("own", "transform_error", f"{type(error).__name__}: {error}")
        return 0
    if not isinstance(outcome, Deliver):
        plan.verdict = outcome
        return 0
    plan.records = outcome.records
    if outcome.children_dropped:
        _log.warning(
            "forwarder.children_without_id",
            inbox_id=plan.row.inbox_id,
            count=outcome.children_dropped,
        )
    return outcome.children_dropped


def _copy(plan: Plan, letters: Letters, limit: int | None) -> Record:
    letter = letters[plan.row.inbox_id]
    return dead_letter_record(
        plan.event, plan.source, letter.code, letter.error, letter.attempts, limit
    )


def _is_too_large(report: Report) -> bool:
    return isinstance(report, Failure) and report.verdict == "too_large"
