"""`relay tail`, on a real broker and as a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.cli.conftest import COMMAND, process


def produce(kafka: str, topic: str, *records: tuple[bytes | None, bytes | None]) -> None:
    """Put records into one topic, in order; Apache Kafka wants it to be made first."""
    admin = AdminClient({"bootstrap.servers": kafka})
    for made in admin.create_topics([NewTopic(topic, 2, 1)]).values():
        try:
            made.result(30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random"})
    for key, value in records:
        producer.produce(topic, key=key, value=value, headers=[("_event_id", b"evt_1")])
    assert producer.flush(30) == 0


async def tail(kafka: str, *args: str) -> bytes:
    code, stdout, stderr = await process(
        "tail", *args, environ={"RELAY_KAFKA_BOOTSTRAP_SERVERS": kafka}
    )
    assert code == 0, stderr
    return stdout


def parsed(stdout: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


async def test_everything_that_is_there(kafka: str, topic_prefix: str) -> None:
    topic = topic_prefix + "customer"
    produce(kafka, topic, (b'{"id":"cus_1"}', b'{"id":"cus_1"}'), (b'{"id":"cus_1"}', None))
    args = (topic, "--from-beginning", "--count", "2")
    first, second = parsed(await tail(kafka, *args, "--json"))
    assert first.keys() == {
        "topic", "partition", "offset", "timestamp", "key", "value", "headers",
    }  # fmt: skip
    assert (first["topic"], first["key"], first["value"]) == (
        topic, '{"id":"cus_1"}', '{"id":"cus_1"}',
    )  # fmt: skip
    assert first["headers"] == {"_event_id": "evt_1"}
    assert second["value"] is None
    assert second["offset"] == first["offset"] + 1
    text = (await tail(kafka, *args)).decode()
    assert '{"id":"cus_1"}' in text
    assert "_event_id=evt_1" in text
    assert text.endswith("(tombstone)\n")


async def test_hostile_records_cannot_command_the_terminal(kafka: str, topic_prefix: str) -> None:
    topic = topic_prefix + "customer"
    evil = "\x1b]0;owned\x07\x9b31m\u202e".encode()
    produce(kafka, topic, (evil, evil), (b"\xff\xfe", b"\xff\x00"))
    for args in ((), ("--json",)):
        shown = (await tail(kafka, topic, "--from-beginning", "-n", "2", *args)).decode()
        assert not set("\x1b\x07\x9b\u202e\x00") & set(shown)
        assert "owned" in shown
    assert "\\xff\x00" in [each["value"] for each in parsed(shown.encode())]


async def test_from_now_on_and_ctrl_c_ends_it(kafka: str, topic_prefix: str) -> None:
    topic = topic_prefix + "customer"
    produce(kafka, topic, (b"old", b"old"))
    started = await asyncio.create_subprocess_exec(
        *COMMAND, "tail", topic, "--json", env={"RELAY_KAFKA_BOOTSTRAP_SERVERS": kafka},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert started.stdout is not None
    line = asyncio.create_task(started.stdout.readline())
    # There is no telling when it has found the end: records are sent until one is seen.
    async with asyncio.timeout(60):
        while not line.done():
            await asyncio.to_thread(produce, kafka, topic, (b"new", b"new"))
            await asyncio.wait([line], timeout=0.1)
    assert json.loads(line.result())["value"] == "new"
    started.send_signal(signal.SIGINT)
    stdout, stderr = await asyncio.wait_for(started.communicate(), 60)
    assert started.returncode == 0
    assert stderr == b""
    assert {each["value"] for each in parsed(stdout)} <= {"new"}


async def test_a_topic_that_is_not_there_is_not_made(kafka: str, topic_prefix: str) -> None:
    produce(kafka, topic_prefix + "customer", (b"k", b"v"))
    environ = {"RELAY_KAFKA_BOOTSTRAP_SERVERS": kafka}
    for _ in range(2):
        code, stdout, stderr = await process("tail", topic_prefix + "custmer", environ=environ)
        assert (code, stdout) == (1, b"")
        assert f"did you mean '{topic_prefix}customer'?" in stderr.decode()


@pytest.mark.parametrize(
    ("environ", "code", "said"),
    [
        ({}, 2, "RELAY_KAFKA_BOOTSTRAP_SERVERS is not set"),
        (
            {"RELAY_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "RELAY_KAFKA_LINGR_MS": "1"},
            2,
            "mean RELAY_KAFKA_LINGER_MS?",
        ),
        ({"RELAY_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, 1, "check RELAY_KAFKA_BOOTSTRAP"),
    ],
)
async def test_without_kafka_the_fix_is_named(
    environ: dict[str, str], code: int, said: str
) -> None:
    found, stdout, stderr = await process("tail", "customer", environ=environ)
    assert (found, stdout) == (code, b"")
    assert said in stderr.decode()
    assert b"Traceback" not in stderr
