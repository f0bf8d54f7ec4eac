"""Kafka: what the settings of the topics mean for the records in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from relay.doctor.check import Check, Findings
from relay.doctor.finding import Finding, listed, ok, size, skipped, span, warning
from relay.doctor.patient import Patient
from relay.doctor.topics import TOPICS, Topics, look_at_topics, number
from relay.kafka import TopicState

USUAL_MESSAGE_BYTES: Final = 1_048_588
"""Kafka's own default for max.message.bytes."""
SHORT_RETENTION_SECONDS: Final = 86_400.0
SMALL_RETENTION_BYTES: Final = 100 * 1024 * 1024


async def _in_sync(patient: Patient) -> Findings:
    return judge_in_sync((await patient.recall(look_at_topics)).states)


def judge_in_sync(states: Sequence[TopicState]) -> list[Finding]:
    """``acks=all`` waits for the replicas that are in sync; this is how many there must be."""
    told = {s.name: (s, number(s, "min.insync.replicas")) for s in states}
    weak, stiff = [], []
    for name, (state, least) in told.items():
        if least is None:
            continue
        if state.replication_factor >= 3 and least < 2:
            weak.append(name)
        elif state.replication_factor > 1 and least >= state.replication_factor:
            stiff.append(name)
    findings = []
    if weak:
        findings.append(
            warning(
                f"min.insync.replicas is 1 for {listed(weak)}: an acknowledged record may be on one"
                " broker only",
                "set it to 2 (kafka-configs.sh --alter --add-config min.insync.replicas=2)",
            )
        )
    if stiff:
        findings.append(
            warning(
                f"min.insync.replicas is as high as the replication factor for {listed(stiff)}:"
                " while one broker is away, nothing is written",
                "set it to one less than the replication factor",
            )
        )
    return findings or [_told(told.values(), "min.insync.replicas fits")]


async def _leader_election(patient: Patient) -> Findings:
    return judge_leader_election((await patient.recall(look_at_topics)).states)


def judge_leader_election(states: Sequence[TopicState]) -> Finding:
    told = {s.name: s.settings.get("unclean.leader.election.enable") for s in states}
    unclean = [name for name, value in told.items() if value == "true"]
    if unclean:
        return warning(
            f"unclean.leader.election.enable is on for {listed(unclean)}: a replica that has missed"
            " acknowledged records may become the leader, and they are gone",
            "set it to false",
        )
    return _told(((s, told[s.name]) for s in states), "clean leaders only")


async def _message_size(patient: Patient) -> Findings:
    found = await patient.recall(look_at_topics)
    return judge_message_size(found.states, patient.settings.max_body_bytes)


def judge_message_size(states: Sequence[TopicState], max_body_bytes: int) -> Finding:
    """Events that are larger than a topic takes become dead letters.

    Stripe's are a few KB. Below Kafka's own limit is worth a warning, the gap between that and the
    largest body is not.
    """
    told = {s.name: (s, number(s, "max.message.bytes")) for s in states}
    limits = {name: limit for name, (_, limit) in told.items() if limit is not None}
    small = [f"{n} ({size(v)})" for n, v in limits.items() if v < USUAL_MESSAGE_BYTES]
    small = small if min(limits.values(), default=0) < max_body_bytes else []
    if small:
        return warning(
            f"less than Kafka's usual {size(USUAL_MESSAGE_BYTES)} is taken by {listed(small)}:"
            " larger events become dead letters (too_large)",
            "raise max.message.bytes of the topic",
        )
    least = min(limits.values(), default=0)
    if limits and least < max_body_bytes:
        return ok(
            f"events above {size(least)} (after compression) become dead letters (too_large);"
            f" bodies up to {size(max_body_bytes)} are received"
        )
    return _told(told.values(), "the largest body fits")


async def _cleanup(patient: Patient) -> Findings:
    return judge_cleanup(await patient.recall(look_at_topics))


def judge_cleanup(found: Topics) -> Finding:
    told = {s.name: s.settings.get("cleanup.policy") for s in found.states}
    compacted = [name for name, value in told.items() if value and "compact" in value]
    lost = [name for name in compacted if name in found.dead_letters]
    if lost:
        return warning(
            f"compacted, so that of dead letters only the last of each event stays: {listed(lost)}",
            "set cleanup.policy=delete for topics of dead letters",
        )
    if compacted:
        return ok(f"compacted, so that of each object the last record stays: {listed(compacted)}")
    return _told(((s, told[s.name]) for s in found.states), "by time or size, none is compacted")


async def _retention(patient: Patient) -> Findings:
    return judge_retention((await patient.recall(look_at_topics)).states)


def judge_retention(states: Sequence[TopicState]) -> Finding:
    told = {s.name: (s, number(s, "retention.ms")) for s in states}
    short = [
        f"{name} ({span(value / 1000)})"
        for name, (_, value) in told.items()
        if value is not None and 0 <= value / 1000 < SHORT_RETENTION_SECONDS
    ]
    for state in states:
        most = number(state, "retention.bytes")
        if most is not None and 0 <= most < SMALL_RETENTION_BYTES:
            short.append(f"{state.name} ({size(most)} a partition)")
    if short:
        return warning(
            f"Kafka keeps the records of {listed(short)} only: a consumer that stops for longer"
            " misses some",
            "raise retention.ms (or retention.bytes); what relay holds can be replayed",
        )
    return _told(told.values(), "a day or more")


def _told(values: Iterable[tuple[TopicState, object]], reason: str) -> Finding:
    """Fine as far as it is known; nothing is when the cluster tells no settings."""
    known = list(values)
    if not known:
        return skipped("there is no topic yet")
    if all(value is None for _, value in known):
        return skipped(
            "the cluster does not tell: relay's user needs DescribeConfigs on the topics"
        )
    return ok(reason)


CHECKS = (
    Check("kafka.in_sync_replicas", _in_sync, TOPICS),
    Check("kafka.leader_election", _leader_election, TOPICS),
    Check("kafka.message_size", _message_size, TOPICS),
    Check("kafka.cleanup_policy", _cleanup, TOPICS),
    Check("kafka.retention", _retention, TOPICS),
)
