"""What the product should reach, by the title of a figure up to its colon."""

from __future__ import annotations

from typing import NamedTuple


class Goal(NamedTuple):
    """What the median should be: that of the ratio ours / `against`, or our own without one."""

    sign: str
    """`>=` or `<=`"""
    bound: float
    against: str | None = None

    def is_met(self, median: float) -> bool:
        return median >= self.bound if self.sign == ">=" else median <= self.bound


GOALS: dict[str, tuple[Goal, ...]] = {
    "Receiver": (
        Goal(">=", 10, "one ORM transaction per request"),
        Goal(">=", 2, "Go, pgx, one INSERT per request"),
        Goal(">=", 1.3, "Litestar, HMAC, no database"),
        Goal(">=", 0.45, "bare ASGI"),
    ),
    "Receiver, PostgreSQL": (Goal("<=", 55),),
    "Receiver, latency": (Goal("<=", 5, "one INSERT at a time"),),
    "Forwarder": (
        Goal(">=", 1.3, "Debezium"),
        Goal(">=", 4, "PgQueuer"),
        Goal(">=", 6, "River"),
        Goal(">=", 40, "procrastinate"),
        Goal(">=", 0.4, "bare librdkafka"),
    ),
    "Forwarder, process": (Goal("<=", 25),),
    "Forwarder, PostgreSQL": (Goal("<=", 25),),
    "End to end": (Goal(">=", 5_000),),
    "End to end, backlog": (Goal("<=", 1),),
    "End to end, p50": (Goal("<=", 25),),
    "End to end, p99": (Goal("<=", 100),),
    "Growth, settled events": (Goal("<=", 1.3, "empty"),),
    "Growth, old transaction": (Goal("<=", 3, "empty"),),
    "Growth, forwarders": (Goal(">=", 1.2, "one forwarder"),),
    "Snapshot": (
        Goal(">=", 15, "package"),
        Goal(">=", 10_000),
    ),
    "Memory, receiver idle": (Goal("<=", 150),),
    "Memory, receiver with uploads": (Goal("<=", 600),),
    "Memory, forwarder": (Goal("<=", 250),),
}
