"""`relay tail`: the records of a topic as they arrive."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from relay.cli.call import Call, common, coroutine
from relay.cli.failures import Failure
from relay.cli.output import say, write_json
from relay.display import moment, printable

if TYPE_CHECKING:
    from relay.kafka import KafkaRecord, TopicReader


@click.command(short_help="Records of a topic as they arrive.")
@click.argument("topic")
@click.option("--from-beginning", is_flag=True, help="All that is there, and then what arrives.")
@click.option(
    "--count", "-n", type=click.IntRange(min=1), metavar="N", help="End after this many records."
)
@common
@coroutine
async def tail(call: Call, topic: str, from_beginning: bool, count: int | None) -> None:
    """Records of a topic as they arrive, until Ctrl-C. Joins no consumer group.

    With --json one object per line; bytes that are no text are escaped in `key` and `value`.
    """
    from relay.kafka import TopicReader

    settings = call.settings
    reader = TopicReader(settings.require_kafka(), settings.kafka_properties)
    try:
        reader.assign({topic: _partitions(reader, topic)}, from_beginning=from_beginning)
        await _write_all(reader, count, as_json=call.json)
    finally:
        reader.close()


async def _write_all(reader: TopicReader, count: int | None, *, as_json: bool) -> None:
    # Ctrl-C is the way to end this. It must not end the process, or close the reader, while a
    # thread is inside of librdkafka.
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    seen = 0
    while not stop.is_set():
        for record in await asyncio.to_thread(reader.read, 0.25):
            _write(record, as_json=as_json)
            seen += 1
            if seen == count:
                return


def _partitions(reader: TopicReader, topic: str) -> int:
    import difflib

    try:
        topics = reader.topics()
    except ConnectionError as error:
        raise Failure(str(error)) from error
    if topic not in topics:
        near = difflib.get_close_matches(topic, topics, 1)
        hint = f": did you mean {near[0]!r}?" if near else "; it is made with its first record"
        raise Failure(f"there is no topic {topic!r}{hint}")
    return topics[topic]


def _write(record: KafkaRecord, *, as_json: bool) -> None:
    headers = {name: _text(value) for name, value in record.headers}
    when = moment(datetime.fromtimestamp(max(record.timestamp, 0) / 1000, UTC))
    if as_json:
        line: dict[str, Any] = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": when,
            "key": None if record.key is None else _text(record.key),
            "value": None if record.value is None else _text(record.value),
            "headers": headers,
        }
        write_json(line, one_line=True)
        return
    key = "-" if record.key is None else printable(_text(record.key))
    shown = " ".join(f"{name}={value}" for name, value in headers.items())
    click.secho(printable(f"{when} {record.partition}:{record.offset} {key} {shown}"), bold=True)
    say("(tombstone)" if record.value is None else printable(_text(record.value)))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
