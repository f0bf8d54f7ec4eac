"""Breakers: one partition is put aside, the others are not, and a single record tries it."""

from __future__ import annotations

import pytest

from relay.forwarder.breakers import WHOLE_TOPIC, Breakers
from tests.forwarder.rows import AWAY, REFUSED

TRIAL_SECONDS = 12.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breakers(clock: Clock) -> Breakers:
    return Breakers(clock, lambda: 0.5, TRIAL_SECONDS)


def test_only_the_partition_that_failed_is_put_aside(breakers: Breakers) -> None:
    assert not breakers.concern("topic")
    breakers.open("topic", 3, AWAY)
    assert breakers.concern("topic")
    away = breakers.look("topic", 3)
    assert away is not None
    assert (away.failure, away.seconds) == (AWAY, 2.0)
    assert breakers.look("topic", 4) is None
    assert breakers.look("topic", WHOLE_TOPIC) is None
    assert breakers.look("another", 3) is None


def test_one_record_tries_and_the_others_wait_for_what_becomes_of_it(
    breakers: Breakers, clock: Clock
) -> None:
    breakers.open("topic", 3, AWAY)
    clock.now += 2.0
    assert breakers.look("topic", 3) is None, "the trial"
    away = breakers.look("topic", 3)
    assert away is not None
    assert away.seconds == 2.0, "not as long as a trial may take: it may end at once"
    breakers.close("topic", 3)
    assert breakers.look("topic", 3) is None
    assert not breakers.concern("topic")


def test_a_trial_that_is_never_told_of_is_followed_by_another(
    breakers: Breakers, clock: Clock
) -> None:
    breakers.open("topic", 3, AWAY)
    clock.now += 2.0
    assert breakers.look("topic", 3) is None
    clock.now += TRIAL_SECONDS
    assert breakers.look("topic", 3) is None
    assert breakers.look("topic", 3) is not None


def test_every_failed_trial_doubles_the_wait_up_to_a_bound(
    breakers: Breakers, clock: Clock
) -> None:
    waits = []
    breakers.open("topic", 3, AWAY)
    for _ in range(6):
        away = breakers.look("topic", 3)
        assert away is not None
        assert away.seconds is not None
        waits.append(away.seconds)
        clock.now += away.seconds
        assert breakers.look("topic", 3) is None
        breakers.open("topic", 3, AWAY)
    assert waits == [2.0, 4.0, 8.0, 15.0, 15.0, 15.0]


def test_several_batches_that_meet_the_same_fault_count_once(breakers: Breakers) -> None:
    for _ in range(5):
        breakers.open("topic", 3, AWAY)
    away = breakers.look("topic", 3)
    assert away is not None
    assert away.seconds == 2.0


def test_a_refusal_is_probed_at_its_own_pace(breakers: Breakers, clock: Clock) -> None:
    breakers.open("topic", WHOLE_TOPIC, REFUSED, 60.0)
    clock.now += 59.0
    away = breakers.look("topic", WHOLE_TOPIC)
    assert away is not None
    assert (away.failure, away.seconds) == (REFUSED, 1.0)
    clock.now += 1.0
    assert breakers.look("topic", WHOLE_TOPIC) is None


def test_a_record_that_arrives_frees_the_whole_topic_too(breakers: Breakers) -> None:
    breakers.open("topic", WHOLE_TOPIC, AWAY)
    breakers.open("topic", 1, AWAY)
    breakers.close("topic", 2)
    assert breakers.look("topic", WHOLE_TOPIC) is None
    assert breakers.look("topic", 1) is not None


def test_the_client_is_blamed_for_a_partition_that_stays_silent(
    breakers: Breakers, clock: Clock
) -> None:
    assert not breakers.is_silent("topic", 3)
    breakers.open("topic", 3, AWAY)
    clock.now += 2 * TRIAL_SECONDS - 1
    assert breakers.look("topic", 3) is None
    breakers.open("topic", 3, AWAY)
    assert not breakers.is_silent("topic", 3)
    clock.now += 1
    assert breakers.is_silent("topic", 3), "since its first failure, whatever was tried meanwhile"
    assert not breakers.is_silent("topic", 4)
    breakers.close("topic", 3)
    assert not breakers.is_silent("topic", 3)


def test_with_a_new_client_all_is_tried_and_the_silent_are_waited_for_longer(
    breakers: Breakers, clock: Clock
) -> None:
    breakers.open("topic", 3, AWAY)
    clock.now += 2 * TRIAL_SECONDS
    breakers.open("topic", 3, AWAY)
    breakers.open("topic", 4, AWAY)
    breakers.try_anew()
    assert breakers.look("topic", 3) is None
    assert breakers.look("topic", 4) is None
    clock.now += 2 * TRIAL_SECONDS
    assert not breakers.is_silent("topic", 3), "twice as long"
    assert breakers.is_silent("topic", 4), "it was not blamed before"
    clock.now += 2 * TRIAL_SECONDS
    assert breakers.is_silent("topic", 3)


def test_the_client_is_blamed_ever_less_often_up_to_a_bound(
    breakers: Breakers, clock: Clock
) -> None:
    breakers.open("topic", 3, AWAY)
    waits = []
    for _ in range(8):
        began = clock.now
        while not breakers.is_silent("topic", 3):
            clock.now += TRIAL_SECONDS
        waits.append((clock.now - began) / TRIAL_SECONDS)
        breakers.try_anew()
    assert waits == [2, 4, 8, 16, 32, 64, 64, 64]
