"""What librdkafka tells of itself, and when it is too old to be told on."""

from __future__ import annotations

import json
from typing import Any

from relay.kafka.statistics import Broker, Listener


def broker(name: str, **changes: Any) -> dict[str, Any]:
    told = {
        "name": name,
        "nodeid": -1,
        "nodename": name.partition("/")[0],
        "source": "learned",
        "state": "UP",
        "outbuf_cnt": 1,
        "waitresp_cnt": 2,
        "txerrs": 3,
        "rxerrs": 4,
        "req_timeouts": 5,
        "disconnects": 6,
        "rtt": {"cnt": 10, "avg": 1500, "p99": 20_000},
    }
    return told | changes


def report(*brokers: dict[str, Any]) -> str:
    head = {"msg_cnt": 7, "msg_size": 700, "msg_max": 1000, "msg_size_max": 2000}
    by_name = {each["name"]: each for each in brokers}
    return json.dumps(head | {"brokers": by_name, "topics": {"customer": {"partitions": {}}}})


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def listener(*brokers: dict[str, Any], clock: Clock | None = None) -> Listener:
    listening = Listener(clock or Clock())
    listening.take(report(*brokers))
    return listening


def test_queue_and_brokers() -> None:
    told = listener(broker("kafka-1:9092/1", nodeid=1)).latest(10)
    assert told is not None
    assert (told.messages, told.bytes, told.most_messages, told.most_bytes) == (7, 700, 1000, 2000)
    assert told.brokers == (Broker("1", True, 3, 0.0015, 0.02, 7, 5, 6),)


def test_a_broker_is_named_by_its_id_once_any_is_known() -> None:
    """The bootstrap servers are not connected then, and that is no news."""
    bootstrap = broker("kafka:9092/bootstrap", source="configured")
    assert [each.name for each in listener(bootstrap).latest(10).brokers] == ["kafka:9092"]
    both = listener(bootstrap, broker("kafka-1:9092/1", nodeid=1)).latest(10)
    assert [each.name for each in both.brokers] == ["1"]


def test_a_broker_that_is_away() -> None:
    """librdkafka says -1 for what it does not know, and 0 for a time that nobody measured."""
    away = broker(
        "kafka-1:9092/1",
        nodeid=1,
        state="TRY_CONNECT",
        outbuf_cnt=-1,
        waitresp_cnt=-1,
        rtt={"cnt": 0, "avg": 0, "p99": 0},
    )
    told = listener(away).latest(10).brokers[0]
    assert (told.connected, told.requests_waiting) == (False, 0)
    assert (told.round_trip_seconds, told.round_trip_p99_seconds) == (None, None)


def test_nothing_is_told_before_the_first_report_or_when_they_stop() -> None:
    clock = Clock()
    assert Listener(clock).latest(10) is None
    listening = listener(broker("kafka-1:9092/1", nodeid=1), clock=clock)
    clock.now += 29
    assert listening.latest(10) is not None
    clock.now += 2
    assert listening.latest(10) is None
