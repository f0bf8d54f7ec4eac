"""A broker, its topics, and what goes wrong with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from relay.kafka import Inspection, partition_of
from relay.store import receipts
from relay.store.receipts import Receipt, Settled
from tests.doctor.conftest import AddSource, Examine, one
from tests.store.rows import new_event, row_of, store
from tests.support.kafka import ApacheKafka


@pytest.fixture
def needs_apache(apache_kafka: bool) -> None:
    if not apache_kafka:
        pytest.skip("the embedded broker tells and refuses little")


def admin_of(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


async def make(
    bootstrap: str, name: str, partitions: int = 6, settings: Mapping[str, str] | None = None
) -> None:
    admin = admin_of(bootstrap)
    (future,) = admin.create_topics(
        [NewTopic(name, partitions, config=dict(settings or {}))]
    ).values()
    await asyncio.to_thread(future.result)


async def deliver(pg: asyncpg.Connection, source_id: int, topic: str, partitions: int) -> None:
    """Twenty events with receipts of a topic that has so many partitions."""
    for number in range(20):
        (event,) = await store(pg, new_event(source_id, object_id=f"cus_{number}"))
        key = f'{{"id":"cus_{number}"}}'
        place = partition_of(key.encode(), partitions)
        proof = Receipt(topic, place, number, key, "u")
        async with pg.transaction():
            await receipts.settle(pg, [Settled(await row_of(pg, event), (proof,))], None)


async def test_kafka_is_not_everybody_s(check: Examine) -> None:
    assert "role forwarder" in one(await check("kafka.reachable"), "skipped").reason
    assert one(await check("kafka.topics"), "skipped").reason == "needs kafka.reachable"


async def test_a_broker_that_is_away(check: Examine) -> None:
    found = one(await check("kafka.reachable", kafka_bootstrap_servers="127.0.0.1:1"), "failed")
    assert "Connection refused" in found.reason


async def test_a_property_that_librdkafka_does_not_take(check: Examine, kafka: str) -> None:
    properties = {"sasl.mechanisme": "PLAIN"}
    found = await check(
        "kafka.reachable", kafka_bootstrap_servers=kafka, kafka_properties=properties
    )
    assert "did you mean RELAY_KAFKA_SASL_MECHANISM" in one(found, "failed").reason


async def test_all_is_well(
    check: Examine, kafka: str, topic_prefix: str, add_source: AddSource, pg: asyncpg.Connection
) -> None:
    config = {"resources": ("customer",), "unselected": "SKIP", "dlq_topic": ""}
    source_id = await add_source(topic_prefix=topic_prefix, **config)
    await make(kafka, f"{topic_prefix}customer")
    await deliver(pg, source_id, f"{topic_prefix}customer", 6)
    found = [
        each
        for name in ("reachable", "topics", "availability", "partitions", "replication", "rights")
        for each in await check(f"kafka.{name}", kafka_bootstrap_servers=kafka)
    ]
    assert {each.verdict for each in found} <= {"ok", "skipped"}, found
    assert found[1].reason == "all 1 exist"
    assert found[3].reason == "the keys of 20 records lie where they would be put now"


async def test_looking_makes_no_topic(
    check: Examine, kafka: str, topic_prefix: str, add_source: AddSource
) -> None:
    await add_source(topic_prefix=topic_prefix)
    found = one(await check("kafka.topics", kafka_bootstrap_servers=kafka), "ok")
    assert found.reason.endswith("will be made with their first record")
    manual = await check("kafka.topics", kafka_bootstrap_servers=kafka, topic_auto_create=False)
    assert "RELAY_TOPIC_AUTO_CREATE is off" in one(manual, "warning").reason
    names = [f"{topic_prefix}{name}" for name in ("customer", "charge", "unknown", "dead_letter")]
    assert await Inspection(kafka).topics(names) == []


async def test_keys_that_lie_elsewhere(
    check: Examine, kafka: str, topic_prefix: str, add_source: AddSource, pg: asyncpg.Connection
) -> None:
    source_id, topic = await add_source(topic_prefix=topic_prefix), f"{topic_prefix}customer"
    await make(kafka, topic, partitions=6)
    await deliver(pg, source_id, topic, partitions=4)
    found = one(await check("kafka.partitions", kafka_bootstrap_servers=kafka), "warning")
    assert found.reason.startswith(f"{topic} has 6 partitions, and had another number")


@pytest.mark.usefixtures("needs_apache")
async def test_partitions_that_were_added(
    check: Examine, kafka: str, topic_prefix: str, add_source: AddSource, pg: asyncpg.Connection
) -> None:
    source_id, topic = await add_source(topic_prefix=topic_prefix), f"{topic_prefix}customer"
    await make(kafka, topic, partitions=4)
    await deliver(pg, source_id, topic, partitions=4)
    one(await check("kafka.partitions", kafka_bootstrap_servers=kafka), "ok")
    admin = admin_of(kafka)
    (future,) = admin.create_partitions([NewPartitions(topic, 6)]).values()
    await asyncio.to_thread(future.result)
    found = one(await check("kafka.partitions", kafka_bootstrap_servers=kafka), "warning")
    assert found.reason.startswith(f"{topic} has 6 partitions, and had another number")


@pytest.mark.usefixtures("needs_apache")
@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("message_size", {"max.message.bytes": "100000"}, "taken by"),
        ("retention", {"retention.ms": "3600000"}, "(60 minutes) only"),
        ("leader_election", {"unclean.leader.election.enable": "true"}, "is on for"),
    ],
)
async def test_settings_of_a_topic(
    check: Examine,
    kafka: str,
    topic_prefix: str,
    add_source: AddSource,
    name: str,
    settings: Mapping[str, str],
    told: str,
) -> None:
    await add_source(topic_prefix=topic_prefix)
    await make(kafka, f"{topic_prefix}charge")
    one(await check(f"kafka.{name}", kafka_bootstrap_servers=kafka), "ok")
    await make(kafka, f"{topic_prefix}customer", settings=settings)
    found = one(await check(f"kafka.{name}", kafka_bootstrap_servers=kafka), "warning")
    assert told in found.reason
    assert f"{topic_prefix}customer" in found.reason


@pytest.mark.usefixtures("needs_apache")
async def test_a_compacted_topic_of_dead_letters(
    check: Examine, kafka: str, topic_prefix: str, add_source: AddSource
) -> None:
    await add_source(topic_prefix=topic_prefix)
    compacted = {"cleanup.policy": "compact"}
    await make(kafka, f"{topic_prefix}customer", settings=compacted)
    one(await check("kafka.cleanup_policy", kafka_bootstrap_servers=kafka), "ok")
    await make(kafka, f"{topic_prefix}dead_letter", settings=compacted)
    found = one(await check("kafka.cleanup_policy", kafka_bootstrap_servers=kafka), "warning")
    assert f"{topic_prefix}dead_letter" in found.reason


@pytest.mark.usefixtures("needs_apache")
async def test_topics_that_cannot_be_made(
    check: Examine, kafka: str, topic_prefix: str, add_source: AddSource
) -> None:
    await add_source(topic_prefix=topic_prefix)
    found = one(
        await check("kafka.topics", kafka_bootstrap_servers=kafka, topic_replication_factor=3),
        "failed",
    )
    assert "replication factor" in found.reason.lower()


@pytest_asyncio.fixture
async def guarded(
    needs_apache: None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """A cluster that asks who may do what; everybody may what no rule forbids."""
    settings = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    directory = tmp_path_factory.mktemp("guarded")
    async with ApacheKafka(directory, settings=settings) as cluster:
        yield cluster.bootstrap_servers


async def rule(
    bootstrap: str, topic: str, operation: AclOperation, kind: AclPermissionType
) -> None:
    # A topic that has any rule is closed to all that no rule allows.
    where = (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*")
    admin = admin_of(bootstrap)
    (future,) = admin.create_acls([AclBinding(*where, operation, kind)]).values()
    await asyncio.to_thread(future.result)


@pytest.mark.slow
async def test_what_relay_s_user_may_not_do(
    check: Examine, guarded: str, add_source: AddSource
) -> None:
    given: dict[str, Any] = {"kafka_bootstrap_servers": guarded}
    await add_source(resources=("customer",), unselected="SKIP", dlq_topic="")
    await make(guarded, "customer")
    one(await check("kafka.rights", **given), "ok")
    await rule(guarded, "customer", AclOperation.WRITE, AclPermissionType.DENY)
    hidden = one(await check("kafka.topics", **given), "failed")
    assert hidden.reason.startswith("customer cannot be made: it exists, and this client may not")
    await rule(guarded, "customer", AclOperation.DESCRIBE, AclPermissionType.ALLOW)
    found = one(await check("kafka.rights", **given), "failed")
    assert found.reason == "relay's user may not write to customer"
