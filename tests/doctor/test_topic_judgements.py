"""What the checks make of the topics that a cluster tells of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from relay.doctor import topic_settings, topics
from relay.doctor.topics import Topics
from relay.kafka import Cluster, Failure, TopicState, partition_of
from relay.settings import Settings
from relay.store.traffic import Placed
from tests.doctor.conftest import verdicts


def topic(name: str = "customer", **changes: Any) -> TopicState:
    """A topic as it should be on three brokers."""
    settings: Mapping[str, str] = {
        "min.insync.replicas": "2",
        "max.message.bytes": "1048588",
        "cleanup.policy": "delete",
        "retention.ms": "604800000",
        "retention.bytes": "-1",
        "unclean.leader.election.enable": "false",
        **changes.pop("settings", {}),
    }
    given = {
        "partitions": 6,
        "replication_factor": 3,
        "without_leader": 0,
        "in_sync": 3,
        "operations": frozenset({"WRITE", "DESCRIBE"}),
        **changes,
    }
    return TopicState(name=name, settings=settings, **given)


def test_a_topic_as_it_should_be() -> None:
    states = [topic()]
    state = Topics(Cluster(3, None), frozenset({"customer"}), frozenset(), tuple(states))
    found = [
        *topics.judge_existence(state, {}, auto_create=False),
        topics.judge_rights(states),
        *topics.judge_availability(states),
        *topics.judge_replication(state, Settings(), {}),
        *topic_settings.judge_in_sync(states),
        topic_settings.judge_leader_election(states),
        topic_settings.judge_message_size(states, 50 * 1024 * 1024),
        topic_settings.judge_cleanup(state),
        topic_settings.judge_retention(states),
    ]
    assert verdicts(found) == ["ok"] * 9


@pytest.mark.parametrize(
    ("judge", "changes", "verdict"),
    [
        (topics.judge_rights, {"operations": frozenset({"DESCRIBE"})}, "failed"),
        (topics.judge_rights, {"operations": None}, "skipped"),
        (topics.judge_availability, {"without_leader": 1}, "failed"),
        (topics.judge_availability, {"in_sync": 1}, "failed"),
        (topics.judge_availability, {"in_sync": 2}, "warning"),
        (topic_settings.judge_in_sync, {"settings": {"min.insync.replicas": "1"}}, "warning"),
        (topic_settings.judge_in_sync, {"settings": {"min.insync.replicas": "3"}}, "warning"),
        (
            topic_settings.judge_in_sync,
            {"replication_factor": 1, "settings": {"min.insync.replicas": "1"}},
            "ok",
        ),
        (
            topic_settings.judge_leader_election,
            {"settings": {"unclean.leader.election.enable": "true"}},
            "warning",
        ),
        (topic_settings.judge_retention, {"settings": {"retention.ms": "3600000"}}, "warning"),
        (topic_settings.judge_retention, {"settings": {"retention.bytes": "1000000"}}, "warning"),
        (topic_settings.judge_retention, {"settings": {"retention.ms": "-1"}}, "ok"),
    ],
)
def test_topics(judge: Any, changes: dict[str, Any], verdict: str) -> None:
    assert verdicts(judge([topic(**changes)])) == [verdict]


@pytest.mark.parametrize(
    ("limit", "largest", "verdict", "told"),
    [
        ("1000", 52_428_800, "warning", "customer (1000 bytes)"),
        ("1000", 900, "ok", "fits"),
        ("1048588", 52_428_800, "ok", "events above 1 MiB"),
        ("62914560", 52_428_800, "ok", "fits"),
    ],
)
def test_message_size(limit: str, largest: int, verdict: str, told: str) -> None:
    states = [topic(settings={"max.message.bytes": limit})]
    found = topic_settings.judge_message_size(states, largest)
    assert found.verdict == verdict
    assert told in found.reason


def test_what_the_cluster_does_not_tell_is_skipped() -> None:
    silent = TopicState(
        name="x", partitions=1, replication_factor=3, without_leader=0, in_sync=3, settings={}
    )
    state = Topics(Cluster(3, None), frozenset({"x"}), frozenset(), (silent,))
    found = [
        topics.judge_rights([silent]),
        *topic_settings.judge_in_sync([silent]),
        topic_settings.judge_leader_election([silent]),
        topic_settings.judge_message_size([silent], 1),
        topic_settings.judge_cleanup(state),
        topic_settings.judge_retention([silent]),
    ]
    assert verdicts(found) == ["skipped"] * 6


def test_compaction() -> None:
    compacted = topic(settings={"cleanup.policy": "compact,delete"})
    dead = topic("dead_letter", settings={"cleanup.policy": "compact"})
    names = frozenset({"customer", "dead_letter"})
    fine = Topics(Cluster(3, None), names, frozenset({"dead_letter"}), (compacted,))
    assert "the last record stays" in topic_settings.judge_cleanup(fine).reason
    bad = Topics(Cluster(3, None), names, frozenset({"dead_letter"}), (compacted, dead))
    assert topic_settings.judge_cleanup(bad).reason.endswith("stays: dead_letter")


def test_one_replica_on_several_brokers() -> None:
    single = topic(replication_factor=1)
    names = frozenset({"customer", "charge"})
    state = Topics(Cluster(3, None), names, frozenset(), (single,))
    broker = {"default.replication.factor": "1"}
    assert verdicts(topics.judge_replication(state, Settings(), broker)) == ["warning"] * 2
    three = Settings(topic_replication_factor=3)
    assert verdicts(topics.judge_replication(state, three, broker)) == ["warning"]
    alone = Topics(Cluster(1, None), names, frozenset(), (single,))
    assert verdicts(topics.judge_replication(alone, Settings(), broker)) == ["ok"]


def test_topics_that_are_not_there() -> None:
    state = Topics(Cluster(1, None), frozenset({"customer", "charge"}), frozenset(), (topic(),))
    assert verdicts(topics.judge_existence(state, {}, auto_create=True)) == ["ok"]
    (waits,) = topics.judge_existence(state, {}, auto_create=False)
    assert (waits.verdict, waits.reason.split()[-1]) == ("warning", "charge")
    refusal = Failure("refused", "kafka_policy_violation", "no")
    (refused,) = topics.judge_existence(state, {"charge": refusal}, auto_create=True)
    assert refused.reason.startswith("charge cannot be made: no;")


def test_a_partition_count_that_has_grown() -> None:
    keys = [f'{{"id":"cus_{n}"}}' for n in range(50)]
    then = [Placed("customer", partition_of(key.encode(), 4), key, 7200.0) for key in keys]
    now = [Placed("customer", partition_of(key.encode(), 6), key, 60.0) for key in keys]
    other = [Placed("gone", 3, keys[0], 60.0)]
    (found,) = topics.judge_partitions([topic()], [*now, *then, *other])
    assert found.verdict == "warning"
    assert "has 6 partitions, and had another number 2 hours ago" in found.reason
    assert verdicts(topics.judge_partitions([topic()], now)) == ["ok"]
    # The topic has forgotten what was there before.
    short = topic(settings={"retention.ms": "3600000"})
    assert verdicts(topics.judge_partitions([short], [*now, *then])) == ["ok"]
    kept = topic(settings={"retention.ms": "3600000", "cleanup.policy": "compact"})
    assert verdicts(topics.judge_partitions([kept], [*now, *then])) == ["warning"]
