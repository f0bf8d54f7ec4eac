"""The schedule is a function of the seed and leaves nothing out."""

from __future__ import annotations

import pytest

from tests.faults.attacks import ATTACKS
from tests.faults.lanes import LONG, SHORT, Lane
from tests.faults.schedule import TRACKS, plan


def test_every_fault_is_on_a_track_and_every_track_has_known_faults() -> None:
    planned = [fault for faults in TRACKS.values() for fault in faults]
    assert sorted(planned) == sorted(ATTACKS)


def test_a_seed_gives_the_same_faults_at_the_same_seconds() -> None:
    assert plan(7, 240.0, 30.0) == plan(7, 240.0, 30.0)
    assert plan(7, 240.0, 30.0) != plan(8, 240.0, 30.0)


@pytest.mark.parametrize("lane", [SHORT, LONG], ids=lambda lane: lane.name)
@pytest.mark.parametrize("seed", range(20))
def test_each_fault_comes_within_the_attack(lane: Lane, seed: int) -> None:
    planned = plan(seed, lane.attack_seconds, lane.seconds_per_fault)
    assert {each.fault for each in planned} == set(ATTACKS)
    assert all(0 <= each.at < lane.attack_seconds for each in planned)
    assert len(planned) >= 25


def test_a_longer_attack_has_more_of_them() -> None:
    assert len(plan(1, 2400.0, 30.0)) > 3 * len(plan(1, 240.0, 30.0))


def test_some_of_them_alone() -> None:
    planned = plan(1, 60.0, 30.0, {"kafka": ["kill_broker"]})
    assert {each.fault for each in planned} == {"kill_broker"}
