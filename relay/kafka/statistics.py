"""What librdkafka tells of itself, as far as anybody looks at it (its STATISTICS.md)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

INTERVAL: Final = "statistics.interval.ms"
# When this many in a row did not come, the last ones say nothing about now.
_MISSED: Final = 3


class Broker(msgspec.Struct, frozen=True):
    """One broker as the producer sees it. The counts start anew with each producer.

    ``name`` is the broker's id; as long as no broker has told any, it is ``host:port`` of the
    bootstrap servers. Without a request lately there are no round trips.
    """

    name: str
    connected: bool
    requests_waiting: int
    round_trip_seconds: float | None
    round_trip_p99_seconds: float | None
    errors: int
    timeouts: int
    disconnects: int


class Statistics(msgspec.Struct, frozen=True):
    """The producer's queue, what is in flight included, and its brokers."""

    messages: int
    bytes: int
    most_messages: int
    most_bytes: int
    brokers: tuple[Broker, ...]


class _Window(msgspec.Struct):
    """Microseconds, over the last interval."""

    cnt: int
    avg: int
    p99: int


class _Broker(msgspec.Struct):
    nodeid: int
    nodename: str
    source: str
    state: str
    outbuf_cnt: int
    waitresp_cnt: int
    txerrs: int
    rxerrs: int
    req_timeouts: int
    disconnects: int
    rtt: _Window


class _Told(msgspec.Struct):
    """Without the topics and partitions, which are most of it and are skipped unread."""

    msg_cnt: int
    msg_size: int
    msg_max: int
    msg_size_max: int
    brokers: dict[str, _Broker]


_decode: Final = msgspec.json.Decoder(_Told).decode


class Listener:
    """Takes librdkafka's statistics, some microseconds each, and keeps the last ones."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latest: tuple[float, str] | None = None

    def take(self, told: str) -> None:
        """The client's callback, in its thread. It is only read when somebody asks."""
        self._latest = self._clock(), told

    def latest(self, interval_seconds: float) -> Statistics | None:
        """None before the first ones, and when they have stopped coming."""
        latest = self._latest
        if latest is None or self._clock() - latest[0] > interval_seconds * _MISSED:
            return None
        return _read(latest[1])


def _read(text: str) -> Statistics:
    told = _decode(text)
    known = [each for each in told.brokers.values() if each.source != "internal"]
    with_id = [each for each in known if each.nodeid >= 0]
    return Statistics(
        messages=told.msg_cnt,
        bytes=told.msg_size,
        most_messages=told.msg_max,
        most_bytes=told.msg_size_max,
        # A name that the bootstrap servers were given by, and that is no broker's own, is not
        # connected any more once the brokers are known.
        brokers=tuple(_broker(each) for each in with_id or known),
    )


def _broker(told: _Broker) -> Broker:
    return Broker(
        name=str(told.nodeid) if told.nodeid >= 0 else told.nodename,
        connected=told.state == "UP",
        # -1 while there is no connection.
        requests_waiting=max(told.outbuf_cnt, 0) + max(told.waitresp_cnt, 0),
        round_trip_seconds=told.rtt.avg / 1e6 if told.rtt.cnt else None,
        round_trip_p99_seconds=told.rtt.p99 / 1e6 if told.rtt.cnt else None,
        errors=told.txerrs + told.rxerrs,
        timeouts=told.req_timeouts,
        disconnects=told.disconnects,
    )
