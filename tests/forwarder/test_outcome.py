"""What becomes of the rows of a batch, in tables of cases."""

from __future__ import annotations

import pytest

from relay.core.transform import Dead, Skip
from relay.forwarder.outcome import Outcomes, decide
from relay.kafka import Failure
from tests.forwarder.rows import AWAY, OWN, POLICY, REFUSED, TOO_LARGE, ack, plan


def settled(outcomes: Outcomes) -> list[int]:
    return [each.row.number for each in outcomes.settled]


def parked(outcomes: Outcomes) -> list[int]:
    return [each.row.number for each in outcomes.parked]


def test_what_kafka_acknowledged_is_settled_with_the_places() -> None:
    outcomes = decide([plan(1, ack(7), ack(8))], POLICY)
    (done,) = outcomes.settled
    assert [(each.topic, each.partition, each.offset, each.key) for each in done.receipts] == [
        ("customer", 0, 7, '{"id":"1"}'),
        ("customer", 0, 8, '{"id":"1"}'),
    ]
    assert outcomes == Outcomes(settled=[done])


def test_a_prefix_of_each_key_is_settled() -> None:
    plans = [
        plan(1, ack(), key=1),
        plan(2, ack(), key=2),
        plan(3, AWAY, key=1),
        plan(4, ack(), key=1),
        plan(5, ack(), key=2),
        plan(6, AWAY, key=1),
        plan(7, ack(), key=3),
    ]
    outcomes = decide(plans, POLICY)
    assert settled(outcomes) == [1, 2, 5, 7]
    assert parked(outcomes) == [3]


def test_keys_of_different_sources_and_lanes_do_not_stop_each_other() -> None:
    plans = [plan(1, AWAY), plan(2, ack(), source_id=2), plan(3, ack(), lane=9)]
    assert settled(decide(plans, POLICY)) == [2, 3]


@pytest.mark.parametrize("reports", [(ack(), AWAY), (AWAY, ack()), (ack(), AWAY, ack())])
def test_a_row_is_settled_by_all_its_records_or_not_at_all(
    reports: tuple[Failure, ...],
) -> None:
    outcomes = decide([plan(1, *reports), plan(2, ack())], POLICY)
    assert settled(outcomes) == []
    assert parked(outcomes) == [1]


@pytest.mark.parametrize(
    "unfinished",
    [
        plan(1, ack(), missing=1),
        plan(1),
        plan(1, None),
        plan(1, ack(), None),
    ],
    ids=["not all handed over", "not reached", "no report", "one report is missing"],
)
def test_what_was_not_handed_over_stays_as_it_is_and_so_do_those_behind_it(
    unfinished: object,
) -> None:
    outcomes = decide([unfinished, plan(2, ack()), plan(3, ack(), key=2)], POLICY)  # type: ignore[list-item]
    assert settled(outcomes) == [3]
    assert parked(outcomes) == []


def test_passing_failures_count_no_attempt_and_wait_a_little() -> None:
    (parking,) = decide([plan(1, AWAY, attempts=2)], POLICY).parked
    assert (parking.attempts, parking.code, parking.alone) == (2, "kafka_msg_timed_out", False)
    assert 0.5 <= parking.seconds <= 3.0


def test_a_refusal_counts_no_attempt_and_is_probed() -> None:
    (parking,) = decide([plan(1, REFUSED)], POLICY).parked
    assert (parking.attempts, parking.seconds) == (0, 60.0)


@pytest.mark.parametrize("failure", [AWAY, REFUSED])
def test_a_row_put_aside_unproduced_waits_as_long_as_its_breaker(failure: Failure) -> None:
    (parking,) = decide([plan(1, verdict=failure, wait_seconds=7.5)], POLICY).parked
    assert (parking.attempts, parking.seconds) == (0, 7.5)


def test_own_failures_are_counted_with_backoff_until_the_last() -> None:
    for attempts, seconds in ((0, 0.5), (1, 1.0)):
        (parking,) = decide([plan(1, OWN, attempts=attempts)], POLICY).parked
        assert (parking.attempts, parking.seconds) == (attempts + 1, seconds)
    outcomes = decide([plan(1, OWN, attempts=2), plan(2, ack())], POLICY)
    (death,) = outcomes.dead
    assert (death.code, death.error, death.attempts) == ("kafka_invalid_record", "no record", 3)
    assert settled(outcomes) == [2], "a dead letter makes way"


def test_a_row_that_may_not_die_halts_its_source_and_stops_its_key() -> None:
    outcomes = decide([plan(1, verdict=Dead("no_route", "x"), dlq=False), plan(2, ack())], POLICY)
    (halt,) = outcomes.halted
    assert (halt.row.number, halt.code, halt.error) == (1, "no_route", "x")
    assert (outcomes.settled, outcomes.dead, outcomes.parked) == ([], [], [])


def test_too_large_is_a_verdict_only_when_alone() -> None:
    (parking,) = decide([plan(1, TOO_LARGE)], POLICY).parked
    assert (parking.seconds, parking.alone, parking.attempts) == (0.0, True, 0)
    (death,) = decide([plan(1, TOO_LARGE, alone=True)], POLICY).dead
    assert (death.code, death.attempts) == ("too_large", 1)


def test_an_illegal_topic_is_a_verdict_at_once() -> None:
    (death,) = decide(
        [plan(1, Failure("invalid_topic", "kafka_topic_exception", "x"))], POLICY
    ).dead
    assert death.code == "invalid_topic"


@pytest.mark.parametrize("failure", [AWAY, REFUSED, OWN])
def test_a_suspect_stays_one_until_it_is_settled(failure: Failure) -> None:
    (parking,) = decide([plan(1, failure, alone=True)], POLICY).parked
    assert parking.alone


@pytest.mark.parametrize(
    "failure", [OWN, TOO_LARGE, Failure("invalid_topic", "kafka_topic_exception", "x")]
)
def test_the_copy_of_a_dead_letter_never_dies(failure: Failure) -> None:
    outcomes = decide([plan(1, failure, kind=1, alone=True, attempts=31_999)], POLICY)
    assert outcomes.dead == []
    (parking,) = outcomes.parked
    assert parking.attempts == 32_000
    (parking,) = decide([plan(1, failure, kind=1, alone=True, attempts=32_000)], POLICY).parked
    assert parking.attempts == 32_000, "the column is a smallint"


def test_a_skip_is_settled_with_its_reason() -> None:
    (done,) = decide([plan(1, verdict=Skip("unselected"))], POLICY).settled
    assert (done.receipts, done.skipped) == ((), "unselected")


@pytest.mark.parametrize(("dlq_topic", "copied"), [("dead_letter", True), ("", False)])
def test_a_dead_letter_has_a_copy_where_there_is_a_topic_for_it(
    dlq_topic: str, copied: bool
) -> None:
    (death,) = decide([plan(1, verdict=Dead("no_route", "x"), dlq_topic=dlq_topic)], POLICY).dead
    assert (death.copy_key_hash is not None) is copied
