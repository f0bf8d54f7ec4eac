"""From claimed rows to reports: transform, topics, produce, wait."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence

import msgspec
import structlog

from relay.core.record import Record
from relay.core.transform import Deliver, dead_letter_record, transform
from relay.forwarder.breakers import WHOLE_TOPIC, Breakers
from relay.forwarder.outcome import Plan
from relay.kafka import Acknowledged, Failure, Flight, Kafka, QueueFullError, Report
from relay.store.receipts import DeadLetterHead
from relay.store.tables import QUEUE_DEAD_LETTER_COPY

_log = structlog.get_logger("relay.forwarder")

# Transforming and producing hold the event loop: let others run now and then.
_ROWS_PER_TURN = 100
_BREAKER_SECONDS = (2.0, 6.0)
# What a record needs besides its value, when a dead letter has to be cut to fit its topic.
_RECORD_OVERHEAD_BYTES = 4096
_LEAST_COPY_BYTES = 1024
_AWAY = "records time out, tried again soon: topic "

Letters = Mapping[int, DeadLetterHead]
"""By inbox id, the dead letters of the rows that carry a copy."""


class Window(msgspec.Struct, frozen=True):
    """Until when a batch may hand over records and has to be at its end, on the loop's clock."""

    produce_until: float
    end: float


class Delivery:
    """Sends one batch after the other; shared by the connections of a process."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._clock = asyncio.get_running_loop().time
        self._breakers = Breakers(self._clock)

    async def send(self, plans: Sequence[Plan], letters: Letters, window: Window) -> None:
        """Transform and produce the plans in order, and wait for all reports."""
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
        topics: dict[str, Failure | None] = {}
        for count, plan in enumerate(plans, start=1):
            if count % _ROWS_PER_TURN == 0:
                await asyncio.sleep(0)
            if plan.key in stopped:
                continue
            _transform(plan, letters)
            await self._check_topics(plan, topics)
            if plan.verdict is None:
                plan.first = len(flight.reports)
                for record in plan.records:
                    if not await self._produce(record, flight, window):
                        break
                    plan.handed += 1
            if plan.stops_its_key:
                stopped.add(plan.key)

    async def _produce(self, record: Record, flight: Flight, window: Window) -> bool:
        """Hand one record over; False when the time for that is over."""
        while self._clock() <= window.produce_until:
            try:
                self._kafka.produce(record, flight)
            except QueueFullError:
                await asyncio.sleep(0.01)
            else:
                return True
        return False

    async def _land(self, flight: Flight, window: Window) -> None:
        landing = asyncio.ensure_future(flight.land())
        _, late = await asyncio.wait({landing}, timeout=max(window.end - self._clock(), 0.1))
        if late:
            await self._kafka.purge()
        await landing

    async def send_alone(self, plan: Plan, letters: Letters, window: Window) -> None:
        """Produce a row record by record, each in a request of its own.

        So a verdict on size is about this record. A dead letter that its topic does not take is
        cut until it fits.
        """
        _transform(plan, letters)
        await self._check_topics(plan, {})
        if plan.verdict is not None:
            return
        reports: list[Report] = []
        for record in plan.records:
            report = await self._send_one(record, window)
            if plan.row.kind == QUEUE_DEAD_LETTER_COPY and _is_too_large(report):
                report = await self._send_cut(plan, letters, window)
            if report is not None:
                reports.append(report)
            if not isinstance(report, Acknowledged):
                break
        plan.reports = reports
        self._learn([plan])

    async def _send_one(self, record: Record, window: Window) -> Report:
        flight = Flight(asyncio.get_running_loop())
        handed = await self._produce(record, flight, window)
        await self._land(flight, window)
        return flight.reports[0] if handed else None

    async def _send_cut(self, plan: Plan, letters: Letters, window: Window) -> Report:
        limit = len(plan.event.body) // 2
        told = await self._kafka.max_message_bytes(plan.records[0].topic)
        if told is not None:
            limit = min(limit, told - _RECORD_OVERHEAD_BYTES)
        while True:
            limit = max(limit, _LEAST_COPY_BYTES)
            plan.records = (_copy(plan, letters, limit),)
            report = await self._send_one(plan.records[0], window)
            if not _is_too_large(report) or limit == _LEAST_COPY_BYTES:
                return report
            limit //= 2

    async def _check_topics(self, plan: Plan, known: dict[str, Failure | None]) -> None:
        """Fail a plan whose records have nowhere to go; ``known`` is what the batch has learnt."""
        for record in plan.records:
            if self._breakers.is_open(record, self._kafka.partition_count(record.topic)):
                plan.verdict = Failure("transient", "kafka_partition_away", _AWAY + record.topic)
                return
            if record.topic not in known:
                failure = (await self._kafka.ensure_topics([record.topic])).get(record.topic)
                known[record.topic] = failure
                if failure is not None and failure.verdict == "transient":
                    self._breakers.open(record.topic, WHOLE_TOPIC, _jitter(_BREAKER_SECONDS))
            if (failure := known[record.topic]) is not None:
                plan.verdict = failure
                return

    def _learn(self, plans: Sequence[Plan]) -> None:
        """Open breakers where records failed for want of a broker."""
        acknowledged = failed = 0
        for plan in plans:
            for record, report in zip(plan.records, plan.reports, strict=False):
                if isinstance(report, Acknowledged):
                    acknowledged += 1
                elif isinstance(report, Failure) and report.verdict == "transient":
                    failed += 1
                    self._breakers.open(record.topic, report.partition, _jitter(_BREAKER_SECONDS))
                    self._kafka.forget_topic(record.topic)
        if failed and not acknowledged:
            self._kafka.mark_down()


def _transform(plan: Plan, letters: Letters) -> None:
    """Set the plan's records or verdict; whatever goes wrong is the row's own failure."""
    try:
        if plan.row.kind == QUEUE_DEAD_LETTER_COPY:
            plan.records = (_copy(plan, letters, None),)
            return
        outcome = transform(plan.event, plan.source)
    except Exception as error:
        _log.exception("forwarder.transform_failed", inbox_id=plan.row.inbox_id)
        plan.verdict = Failure("own", "transform_error", f"{type(error).__name__}: {error}")
        return
    if isinstance(outcome, Deliver):
        plan.records = outcome.records
        if outcome.children_dropped:
            _log.warning(
                "forwarder.children_without_id",
                inbox_id=plan.row.inbox_id,
                count=outcome.children_dropped,
            )
    else:
        plan.verdict = outcome


def _copy(plan: Plan, letters: Letters, limit: int | None) -> Record:
    letter = letters[plan.row.inbox_id]
    return dead_letter_record(
        plan.event, plan.source, letter.code, letter.error, letter.attempts, limit
    )


def _is_too_large(report: Report) -> bool:
    return isinstance(report, Failure) and report.verdict == "too_large"


def _jitter(bounds: tuple[float, float]) -> float:
    return random.uniform(*bounds)  # noqa: S311 - spreads load, protects nothing
