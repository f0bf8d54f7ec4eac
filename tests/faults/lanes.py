"""The two lanes: a short one with time-outs of a tenth, and a long one with the real ones."""

from __future__ import annotations

from typing import Final

import msgspec


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """How long, how much, and with which time-outs; all times in seconds."""

    name: str
    calm_seconds: float
    """Before the first fault, to know what is normal."""
    attack_seconds: float
    seconds_per_fault: float
    """How close the faults of a track follow one another."""
    recovery_seconds: float = 60.0
    """In which everything must be back to normal after the last fault."""
    drained_seconds: float = 240.0
    """In which nothing is pending any more after the last request."""
    events_per_second: float
    connections: int = 16
    scale: float
    """Of the time-outs, against the defaults."""
    uploads: int
    settings: dict[str, str]
    pooler_settings: dict[str, str]

    @property
    def frozen_seconds(self) -> float:
        return float(self.settings.get("RELAY_FROZEN_AFTER_SECONDS", 30))

    @property
    def delivery_seconds(self) -> float:
        return float(self.settings.get("RELAY_DELIVERY_TIMEOUT_SECONDS", 10))

    @property
    def fence_seconds(self) -> float:
        """Until the lanes of a dead process are free."""
        return self.delivery_seconds + float(self.settings.get("RELAY_FENCE_MARGIN_SECONDS", 5))


SHORT: Final = Lane(
    name="short",
    calm_seconds=20,
    attack_seconds=240,
    seconds_per_fault=30,
    events_per_second=100,
    scale=0.1,
    uploads=40,
    settings={
        "RELAY_DELIVERY_TIMEOUT_SECONDS": "1",
        "RELAY_FENCE_MARGIN_SECONDS": "0.5",
        "RELAY_BATCH_TIMEOUT_SECONDS": "2",
        "RELAY_FROZEN_AFTER_SECONDS": "3",
        "RELAY_PROBE_SECONDS": "6",
        "RELAY_BACKOFF_BASE_SECONDS": "0.1",
        "RELAY_BACKOFF_CAP_SECONDS": "60",
        "RELAY_DATABASE_TIMEOUT_SECONDS": "6",
        "RELAY_HEADER_TIMEOUT_SECONDS": "3",
        "RELAY_BODY_TIMEOUT_SECONDS": "15",
        "RELAY_STRIPE_TIMEOUT_SECONDS": "1",
    },
    pooler_settings={"query_wait_timeout": "3"},
)

BRIEF: Final = msgspec.structs.replace(
    SHORT,
    name="brief",
    calm_seconds=10,
    attack_seconds=60,
    recovery_seconds=10,
    drained_seconds=30,
)
"""For a deployment with a broken rule: it has to show soon."""

LONG: Final = Lane(
    name="long",
    calm_seconds=30,
    attack_seconds=600,
    seconds_per_fault=60,
    events_per_second=100,
    scale=1.0,
    uploads=200,
    settings={},
    pooler_settings={},
)
