"""What becomes of each row of a batch, decided from the reports. Pure but for the jitter given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from relay.core import backoff
from relay.core.record import Record
from relay.core.routing import key_of, lane_of
from relay.core.source import SourceConfig
from relay.core.transform import Dead, Skip, StoredEvent
from relay.kafka import Acknowledged, Failure, Report
from relay.store.queue import Parking, QueueRow
from relay.store.receipts import Death, Receipt, Settled
from relay.store.tables import QUEUE_EVENT

# A record that no broker took is tried again soon: it is the outage that has to be waited for, and
# the claims pause as long as it lasts.
TRANSIENT_SECONDS = (0.5, 3.0)


class Plan(msgspec.Struct, gc=False):
    """A row on its way through the batch.

    ``verdict`` is set when it is decided without Kafka; for a failure ``wait_seconds`` may say
    when to look again. ``reports`` has one entry per record that was handed over; fewer than
    ``records``, or no records at all, mean that the time was over. ``first`` is where they begin
    among the reports of the batch.
    """

    row: QueueRow
    source: SourceConfig
    event: StoredEvent
    records: tuple[Record, ...] = ()
    verdict: Skip | Dead | Failure | None = None
    wait_seconds: float | None = None
    reports: Sequence[Report] = ()
    first: int = 0
    handed: int = 0

    @property
    def key(self) -> tuple[int, int, int]:
        return self.row.source_id, self.row.lane, self.row.key_hash

    @property
    def stops_its_key(self) -> bool:
        """Whether it is known already that the row stays in line, and so what is behind it."""
        match self.verdict:
            case None:
                return self.handed < len(self.records)
            case Failure():
                return True
            case Dead():
                return not self.source.dlq
        return False


class Halt(msgspec.Struct, frozen=True):
    """A source has to stop here: the row cannot work, and it has no dead letter queue."""

    row: QueueRow
    code: str
    error: str


class Outcomes(msgspec.Struct):
    """The rows of a batch by what becomes of them; what is in none of the lists stays in line."""

    settled: list[Settled] = []
    parked: list[Parking] = []
    dead: list[Death] = []
    halted: list[Halt] = []


class Policy(msgspec.Struct, frozen=True):
    """The numbers of the failure policy; ``random`` gives floats in [0, 1)."""

    random: Callable[[], float]
    max_attempts: int
    backoff_base_seconds: float
    backoff_cap_seconds: float
    probe_seconds: float


def decide(plans: Iterable[Plan], policy: Policy) -> Outcomes:
    """Settle a prefix per key: after a row that was not settled, later rows of its key stay.

    They stay even when Kafka has acknowledged them, and run again after it; so the last
    occurrences in the topic are in order.
    """
    outcomes = Outcomes()
    stopped: set[tuple[int, int, int]] = set()
    for plan in plans:
        if plan.key in stopped:
            continue
        if not _decide_one(plan, policy, outcomes):
            stopped.add(plan.key)
    return outcomes


def _decide_one(plan: Plan, policy: Policy, outcomes: Outcomes) -> bool:
    """Whether the rows behind this one in its line may be settled too."""
    match plan.verdict:
        case Skip(reason):
            outcomes.settled.append(Settled(plan.row, (), reason))
            return True
        case Dead(code, message):
            return _bury(plan, code, message, plan.row.attempts, outcomes)
        case Failure() as failure:
            return _fail(plan, failure, policy, outcomes)
    receipts = []
    for record, report in zip(plan.records, plan.reports, strict=False):
        match report:
            case Acknowledged(partition, offset):
                key = record.key.decode("utf-8")
                receipts.append(Receipt(record.topic, partition, offset, key, record.op))
            case Failure() as failure:
                return _fail(plan, failure, policy, outcomes)
    if not plan.records or len(receipts) < len(plan.records):
        return False  # not handed over in time: it stays at its place, nothing has failed
    outcomes.settled.append(Settled(plan.row, tuple(receipts)))
    return True


def _fail(plan: Plan, failure: Failure, policy: Policy, outcomes: Outcomes) -> bool:
    row = plan.row
    attempts = row.attempts
    # A suspect of a crash stays one until it has been settled.
    alone = row.alone
    match failure.verdict:
        case "transient":
            least, most = TRANSIENT_SECONDS
            seconds = least + policy.random() * (most - least)
        case "refused":
            seconds = policy.probe_seconds
        case "too_large" if not row.alone:
            # One oversize record can fail the batch it travels in: the verdict counts alone.
            seconds, alone = 0.0, True
        case "too_large" | "invalid_topic" if row.kind == QUEUE_EVENT:
            return _bury(plan, failure.verdict, failure.message, attempts + 1, outcomes)
        case _:
            attempts += 1
            if attempts >= policy.max_attempts and row.kind == QUEUE_EVENT:
                return _bury(plan, failure.code, failure.message, attempts, outcomes)
            seconds = backoff.delay(
                attempts,
                policy.random(),
                policy.backoff_base_seconds,
                policy.backoff_cap_seconds,
            )
    if plan.wait_seconds is not None:
        seconds = plan.wait_seconds
    outcomes.parked.append(
        Parking(row, seconds, failure.code, failure.message, min(attempts, 32_000), alone)
    )
    return False


def _bury(plan: Plan, code: str, error: str, attempts: int, outcomes: Outcomes) -> bool:
    if not plan.source.dlq:
        outcomes.halted.append(Halt(plan.row, code, error))
        return False
    outcomes.dead.append(death(plan.row, plan.source, plan.event, code, error, attempts))
    return True


def death(
    row: QueueRow, source: SourceConfig, event: StoredEvent, code: str, error: str, attempts: int
) -> Death:
    """The end of a row, with a copy for the dead letter topic where the source has one."""
    copy = lane_of(key_of(event.event_id))[1] if source.dlq_topic else None
    return Death(
        row,
        event.event_id,
        event.event_type,
        code,
        error,
        min(attempts, 32_000),
        copy_key_hash=copy,
    )
