"""The client of Kafka: partitions, verdicts, reports, topics, and reading back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from confluent_kafka import ElectionType, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from structlog.testing import capture_logs

from relay.core.errors import ConfigError
from relay.core.record import Record
from relay.dev.broker import EmbeddedBroker
from relay.dev.process import free_port
from relay.kafka import (
    Acknowledged,
    Failure,
    Flight,
    Kafka,
    QueueFullError,
    TopicReader,
    classify,
    partition_of,
)
from relay.kafka.partitioner import murmur2
from tests.support import topics
from tests.support.kafka import ApacheKafka
from tests.support.processes import eventually

MakeKafka = Callable[..., Awaitable[Kafka]]


@pytest_asyncio.fixture
async def make_kafka(kafka: str) -> AsyncIterator[MakeKafka]:
    """`await make_kafka(**options)`, on the cluster of the run unless another is given."""
    made: list[Kafka] = []

    async def make(bootstrap_servers: str = kafka, **options: Any) -> Kafka:
        client = Kafka(bootstrap_servers, **options)
        client.start()
        made.append(client)
        return client

    yield make
    for client in made:
        await client.close()


def record(topic: str, key: bytes = b'{"id":"1"}', value: bytes | None = b"{}") -> Record:
    return Record(topic, key, value, (("__op", b"u"),), "u")


async def send(kafka: Kafka, *records: Record) -> list[Acknowledged | Failure | None]:
    flight = Flight(asyncio.get_running_loop())
    for each in records:
        kafka.produce(each, flight)
    await flight.land()
    return flight.reports


# From the tests of the Java client (org.apache.kafka.common.utils.UtilsTest.testMurmur2).
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_the_java_client(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected % 2**32


async def test_the_broker_gets_keys_where_we_expect_them(
    make_kafka: MakeKafka, topic_prefix: str
) -> None:
    kafka = await make_kafka(partitions=7)
    topic = f"{topic_prefix}keys"
    assert await kafka.topics.ensure([topic]) == {}
    keys = [b'{"id":"cus_%d"}' % number for number in range(60)] + [b"", b"\xff\x80\x81\xc3"]
    reports = await send(kafka, *(record(topic, key) for key in keys))
    found = [report.partition for report in reports if isinstance(report, Acknowledged)]
    # librdkafka sends an empty key to a random partition; we never have one.
    assert found[:60] + found[61:] == [partition_of(key, 7) for key in [*keys[:60], keys[61]]]
    assert len(set(found)) == 7


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (KafkaError._MSG_TIMED_OUT, "transient"),
        (KafkaError._ALL_BROKERS_DOWN, "transient"),
        (KafkaError._UNKNOWN_TOPIC, "transient"),
        (KafkaError._UNKNOWN_PARTITION, "transient"),
        (KafkaError._PURGE_INFLIGHT, "transient"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "transient"),
        (KafkaError.NOT_LEADER_FOR_PARTITION, "transient"),
        (KafkaError.NOT_ENOUGH_REPLICAS, "transient"),
        (KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "transient"),
        (KafkaError.UNKNOWN, "transient"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "refused"),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, "refused"),
        (KafkaError.POLICY_VIOLATION, "refused"),
        (KafkaError.INVALID_REPLICATION_FACTOR, "refused"),
        (KafkaError.MSG_SIZE_TOO_LARGE, "too_large"),
        (KafkaError.RECORD_LIST_TOO_LARGE, "too_large"),
        (KafkaError.TOPIC_EXCEPTION, "invalid_topic"),
        (KafkaError.INVALID_RECORD, "own"),
        (KafkaError.INVALID_TIMESTAMP, "own"),
        (KafkaError.INVALID_MSG, "own"),
    ],
)
def test_whose_fault_an_error_is(code: int, verdict: str) -> None:
    assert classify(KafkaError(code)).verdict == verdict


def test_a_fatal_error_is_nobodys_fault_unless_it_is_a_refusal() -> None:
    assert classify(KafkaError(KafkaError.INVALID_TIMESTAMP, "", True)).verdict == "transient"
    refused = KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED, "", True)
    assert classify(refused).verdict == "refused"


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (KafkaError(KafkaError.PRODUCER_FENCED), True),
        (KafkaError(KafkaError.INVALID_TIMESTAMP, "", True), True),
        (KafkaError(KafkaError._MSG_TIMED_OUT), False),
    ],
)
def test_some_errors_ask_for_a_new_producer(error: KafkaError, lost: bool) -> None:
    assert classify(error).producer_lost is lost


def test_a_failure_has_a_stable_code_and_the_partition() -> None:
    failure = classify(KafkaError(KafkaError._MSG_TIMED_OUT), partition=4)
    assert (failure.code, failure.partition) == ("kafka_msg_timed_out", 4)


def test_properties_that_librdkafka_refuses_name_the_variable() -> None:
    with pytest.raises(ConfigError, match="RELAY_KAFKA_NO_SUCH_PROPERTY"):
        Kafka("127.0.0.1:1", {"no.such.property": "1"})
    with pytest.raises(ConfigError, match="RELAY_KAFKA_NO_SUCH_PROPERTY"):
        TopicReader("127.0.0.1:1", {"no.such.property": "1"})


async def test_the_promise_cannot_be_configured_away(make_kafka: MakeKafka) -> None:
    given = {"acks": "0", "enable.idempotence": "false", "partitioner": "random"}
    kafka = await make_kafka(properties=given)
    assert kafka._config["acks"] == "all"
    assert kafka._config["enable.idempotence"] is True
    assert kafka._config["partitioner"] == "murmur2_random"


async def test_producer_properties_do_not_stop_the_admin_client(make_kafka: MakeKafka) -> None:
    given = {"compression.type": "zstd", "linger.ms": "5", "batch.size": "100000"}
    kafka = await make_kafka(properties=given)
    await kafka.topics.refresh()


async def test_a_full_queue_is_told_and_leaves_no_trace_in_the_flight(
    make_kafka: MakeKafka, topic_prefix: str
) -> None:
    kafka = await make_kafka(properties={"queue.buffering.max.messages": "2", "linger.ms": "2000"})
    topic = f"{topic_prefix}full"
    await kafka.topics.ensure([topic])
    flight = Flight(asyncio.get_running_loop())
    kafka.produce(record(topic), flight)
    kafka.produce(record(topic), flight)
    with pytest.raises(QueueFullError):
        kafka.produce(record(topic), flight)
    await flight.land()
    assert [type(report) for report in flight.reports] == [Acknowledged, Acknowledged]


async def test_a_record_that_the_client_refuses_has_its_report_at_once(
    make_kafka: MakeKafka, topic_prefix: str
) -> None:
    kafka = await make_kafka()
    (report,) = await send(kafka, record(f"{topic_prefix}big", value=bytes(65 * 1024 * 1024)))
    assert isinstance(report, Failure)
    assert report.verdict == "too_large"


async def test_purged_records_are_reported_as_passing_failures(
    make_kafka: MakeKafka, topic_prefix: str
) -> None:
    kafka = await make_kafka(properties={"linger.ms": "60000"}, delivery_timeout_seconds=120)
    topic = f"{topic_prefix}purged"
    await kafka.topics.ensure([topic])
    flight = Flight(asyncio.get_running_loop())
    kafka.produce(record(topic), flight)
    await kafka.purge()
    await flight.land()
    (report,) = flight.reports
    assert isinstance(report, Failure)
    assert (report.verdict, report.code) == ("transient", "kafka_purge_queue")


async def test_a_report_that_fails_does_not_stop_the_others(
    make_kafka: MakeKafka, topic_prefix: str
) -> None:
    kafka = await make_kafka()
    topic = f"{topic_prefix}reports"
    await kafka.topics.ensure([topic])
    gone = asyncio.new_event_loop()
    gone.close()
    orphan = Flight(gone)  # its loop has ended: waking it raises in the thread of the reports
    kafka.produce(record(topic), orphan)
    orphan._outstanding -= 1
    await eventually(lambda: orphan.reports[0] is not None)
    assert isinstance((await send(kafka, record(topic)))[0], Acknowledged)


async def test_topics_are_made_once_and_counted(make_kafka: MakeKafka, topic_prefix: str) -> None:
    one, two = await make_kafka(partitions=2), await make_kafka(partitions=5)
    names = [f"{topic_prefix}{number}" for number in range(3)]
    failures = await asyncio.gather(one.topics.ensure(names), two.topics.ensure(names))
    assert failures == [{}, {}]
    counts = [one.topics.partition_count(name) for name in names]
    assert counts == [two.topics.partition_count(name) for name in names]
    assert set(counts) <= {2, 5}
    one.topics.forget(names[0])
    assert one.topics.partition_count(names[0]) is None


async def test_without_creation_an_unknown_topic_waits_and_is_not_made(
    make_kafka: MakeKafka, topic_prefix: str, kafka_reader: topics.TopicReader
) -> None:
    kafka = await make_kafka(auto_create=False)
    topic = f"{topic_prefix}unknown"
    failure = (await kafka.topics.ensure([topic]))[topic]
    assert (failure.verdict, failure.code) == ("transient", "kafka_unknown_topic")
    assert topic not in await kafka_reader.topics()


async def test_a_probe_makes_no_topic(
    make_kafka: MakeKafka, kafka_reader: topics.TopicReader
) -> None:
    kafka = await make_kafka()
    before = await kafka_reader.topics()
    kafka.mark_down()
    assert kafka.is_down
    assert await kafka.probe()
    assert not kafka.is_down
    assert await kafka_reader.topics() == before


async def test_a_changed_number_of_partitions_is_warned_about(
    make_kafka: MakeKafka, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = await make_kafka(partitions=2)
    topic = f"{topic_prefix}grown"
    await kafka.topics.ensure([topic])
    with capture_logs() as logs:
        await kafka.topics.refresh()
        assert logs == []
        kafka.topics._note(topic, 4)  # what a look at the grown topic would tell
        await kafka.topics.refresh()
    told = [(each["event"], each["before"], each["now"]) for each in logs if each["topic"] == topic]
    changed = "kafka.partitions_changed"
    assert told == [(changed, 2, 4), (changed, 4, 2)]


async def test_a_cluster_that_is_away_is_noticed_and_comes_back(
    make_kafka: MakeKafka, tmp_path: Path
) -> None:
    port = free_port()
    kafka = await make_kafka(f"127.0.0.1:{port}", delivery_timeout_seconds=1)
    with pytest.raises(ConnectionError):
        await kafka.topics.ensure(["topic"])
    assert not await kafka.probe()
    (report,) = await send(kafka, record("topic"))
    assert isinstance(report, Failure)
    assert report.verdict == "transient"
    kafka.mark_down()
    async with EmbeddedBroker(tmp_path / "broker.log", preferred_port=port) as broker:
        assert broker.port == port
        await eventually(kafka.probe)
        assert not kafka.is_down
        assert await kafka.topics.ensure(["topic"]) == {}
        (report,) = await send(kafka, record("topic"))
        assert isinstance(report, Acknowledged)


async def test_a_fatal_error_asks_for_a_new_producer(make_kafka: MakeKafka, tmp_path: Path) -> None:
    """A real one: the broker has lost its state, and with it the producer's sequence."""
    port = free_port()
    log = tmp_path / "broker.log"
    async with EmbeddedBroker(log, preferred_port=port):
        kafka = await make_kafka(f"127.0.0.1:{port}", delivery_timeout_seconds=2)
        await kafka.topics.ensure(["topic"])
        assert isinstance((await send(kafka, record("topic")))[0], Acknowledged)
    # A gap in the sequence, so that the client cannot simply number its records anew.
    assert isinstance((await send(kafka, record("topic")))[0], Failure)
    async with EmbeddedBroker(log, preferred_port=port):
        await eventually(kafka.probe)
        kafka.topics.forget("topic")
        await kafka.topics.ensure(["topic"])
        with capture_logs() as logs:
            (report,) = await send(kafka, record("topic"))
            await eventually(lambda: kafka.needs_rebuild)
        assert isinstance(report, Failure)
        assert (report.verdict, report.producer_lost) == ("transient", True)
        assert "kafka.producer_fatal" in [each["event"] for each in logs]
        before = kafka._producer
        assert kafka.rebuilds == 0
        await kafka.rebuild()
        assert not kafka.needs_rebuild
        assert kafka.rebuilds == 1
        assert kafka._producer is not before
        assert isinstance((await send(kafka, record("topic")))[0], Acknowledged)


async def test_a_partition_whose_leader_was_moved_is_still_read(
    tmp_path: Path, apache_kafka: bool
) -> None:
    """As brokers do by themselves, minutes after one of them was restarted."""
    if not apache_kafka:
        pytest.skip("the embedded broker is one")
    async with ApacheKafka(tmp_path, brokers=2) as cluster:
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})
        (made,) = admin.create_topics([NewTopic("topic", 2, 2)]).values()
        await asyncio.to_thread(made.result)
        await eventually(lambda: set(_leaders(admin)) == {0, 1})
        moved = _leaders(admin).index(1)
        await asyncio.to_thread(cluster.stop_broker, 1)
        await asyncio.to_thread(cluster.start_broker, 1)
        assert _leaders(admin) == [0, 0]
        reader = TopicReader(cluster.bootstrap_servers)
        try:
            assert reader.watermarks("topic", moved) == (0, 0)
            place = TopicPartition("topic", moved)
            await eventually(lambda: _is_moved_back(admin, place))
            assert await asyncio.to_thread(reader.watermarks, "topic", moved) == (0, 0)
        finally:
            reader.close()


def _leaders(admin: AdminClient) -> list[int]:
    parts = admin.list_topics("topic", timeout=10).topics["topic"].partitions
    return [parts[number].leader for number in sorted(parts)]


def _is_moved_back(admin: AdminClient, place: TopicPartition) -> bool:
    """Once its first replica is in sync again."""
    admin.elect_leaders(ElectionType.PREFERRED, [place]).result()
    return _leaders(admin)[place.partition] == 1


async def test_the_reader_gives_back_what_was_sent(
    make_kafka: MakeKafka, kafka: str, topic_prefix: str
) -> None:
    client = await make_kafka(partitions=2)
    topic = f"{topic_prefix}read"
    await client.topics.ensure([topic])
    for number in range(8):
        # One by one: the embedded broker tells the end of the last batch as one past its first.
        await send(client, record(topic, b"%d" % number, None if number == 3 else b"v"))
    reader = TopicReader(kafka)
    try:
        assert reader.topics()[topic] == 2
        wanted = {topic: 2}
        assert sum((await asyncio.to_thread(reader.ends, wanted)).values()) == 8
        reader.assign(wanted, from_beginning=True)
        found = []
        async for each in reader.stream():
            found.append(each)
            if len(found) == 8:
                break
        assert sorted(each.key or b"" for each in found) == [b"%d" % n for n in range(8)]
        assert [each.key for each in found if each.value is None] == [b"3"]
        assert {each.headers for each in found} == {(("__op", b"u"),)}
    finally:
        reader.close()
