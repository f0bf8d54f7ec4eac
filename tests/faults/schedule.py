"""Which fault comes when: a function of the seed. Pure.

Faults of one track come one after the other, those of different tracks overlap.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from tests.faults.attacks.network import ATTACKS as NETWORK

TRACKS: Final[Mapping[str, Sequence[str]]] = {
    "processes": (
        "kill_forwarder",
        "freeze_forwarder",
        "kill_receiver",
        "freeze_forwarder_in_statement",
        "kill_snapshotter",
        "freeze_forwarder_by_socket",
        "pause_forwarder_without_database",
        "late_records",
        "freeze_receiver",
        "freeze_forwarder_reading",
        "clock_ahead",
        "freeze_snapshotter",
        "clock_behind",
        "rolling_restart",
        "crash_transform",
    ),
    "postgres": (
        "postgres_crash",
        "postgres_failover",
        "postgres_no_connections",
        "postgres_disk_full",
        "long_transaction",
        "migrate_under_load",
    ),
    "kafka": (
        "kill_broker",
        "freeze_broker",
        "all_brokers_away",
        "topic_deleted",
        "topic_limit",
        "authorization_refused",
        "restart_brokers",
    ),
    "network": tuple(NETWORK),
    "clients": ("slow_clients", "broken_clients", "burst", "large_uploads"),
}


class Planned(msgspec.Struct, frozen=True):
    """A fault, and the second after the beginning of the attack at which it begins."""

    at: float
    track: str
    fault: str
    seed: int
    """Of whatever it chooses by itself."""


def plan(
    seed: int,
    seconds: float,
    seconds_per_fault: float,
    tracks: Mapping[str, Sequence[str]] = TRACKS,
) -> list[Planned]:
    """Every fault at least once; more often where there is time, in another order each time."""
    planned = []
    for track, faults in tracks.items():
        rng = random.Random(f"{seed} {track}")
        rounds = max(1, round(seconds / (seconds_per_fault * len(faults))))
        following: list[str] = []
        for _ in range(rounds):
            following += rng.sample(faults, len(faults))
        gap = seconds / len(following)
        for number, fault in enumerate(following):
            at = number * gap + rng.uniform(0.0, 0.4) * gap
            planned.append(Planned(round(at, 1), track, fault, rng.randrange(10**9)))
    return sorted(planned, key=lambda each: (each.at, each.track))
