"""Kafka: whether it is there, and whether the topics of the sources keep what they are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from relay.core.errors import ConfigError
from relay.doctor.check import Check, Findings
from relay.doctor.finding import Finding, failed, listed, ok, skipped, span, warning
from relay.doctor.patient import Patient
from relay.doctor.routes import named_topics
from relay.doctor.server import SCHEMA
from relay.kafka import Cluster, Failure, NoBrokerError, TopicState, partition_of
from relay.settings import Settings
from relay.store import sources, traffic
from relay.store.traffic import Placed


class Topics(msgspec.Struct, frozen=True):
    """The topics that the sources name or have written to, as the cluster has them."""

    cluster: Cluster
    named: frozenset[str]
    dead_letters: frozenset[str]
    states: tuple[TopicState, ...]

    @property
    def missing(self) -> list[str]:
        """Those that are named and not there."""
        return sorted(self.named - {each.name for each in self.states})


async def _reachable(patient: Patient) -> Findings:
    if patient.settings.kafka_bootstrap_servers is None:
        return skipped(
            "RELAY_KAFKA_BOOTSTRAP_SERVERS is not set: processes with the role forwarder need it"
        )
    try:
        found = await patient.kafka.cluster()
    except ConfigError as error:
        return failed(error.message, "correct the variable, or unset it")
    except NoBrokerError as error:
        return failed(error.trouble.said or "no broker answers", error.trouble.fix)
    return ok(f"{found.brokers} brokers answer" if found.brokers != 1 else "1 broker answers")


async def look_at_topics(patient: Patient) -> Topics:
    """What the checks below look at."""
    named = named_topics(await patient.ask(sources.list_configs))
    written = {each.topic for each in await patient.recall(_placed)}
    all_named = named.records | named.dead_letters
    return Topics(
        cluster=await patient.kafka.cluster(),
        named=all_named,
        dead_letters=named.dead_letters,
        states=tuple(await patient.kafka.topics(all_named | written)),
    )


async def _placed(patient: Patient) -> list[Placed]:
    async with patient.driver() as pg:
        return await traffic.placed(pg)


async def _existence(patient: Patient) -> Findings:
    found = await patient.recall(look_at_topics)
    refusals: Mapping[str, Failure] = {}
    # A cluster that does not tell rights is none of Apache's, and may not know a trial either.
    if patient.settings.topic_auto_create and found.cluster.operations is not None:
        refusals = await patient.kafka.try_creating(
            found.missing,
            partitions=patient.settings.topic_partitions,
            replication_factor=patient.settings.topic_replication_factor,
        )
    return judge_existence(found, refusals, auto_create=patient.settings.topic_auto_create)


def judge_existence(
    found: Topics, refusals: Mapping[str, Failure], *, auto_create: bool
) -> list[Finding]:
    """``refusals``: why the cluster would not make a missing topic."""
    missing = found.missing
    if not missing:
        return [ok(f"all {len(found.named)} exist" if found.named else "no source names any")]
    if not auto_create:
        return [
            warning(
                "missing, and RELAY_TOPIC_AUTO_CREATE is off, so that what goes there waits:"
                f" {listed(missing)}",
                "create them (kafka-topics.sh --create --topic …), or set"
                " RELAY_TOPIC_AUTO_CREATE=true",
            )
        ]
    by_reason: dict[str, list[str]] = {}
    for topic, refusal in refusals.items():
        by_reason.setdefault(refusal.message, []).append(topic)
    findings = [
        failed(
            f"{listed(topics)} cannot be made: {reason}; what goes there waits",
            "create them, allow relay's user to Create and Describe them, or correct"
            " RELAY_TOPIC_PARTITIONS and RELAY_TOPIC_REPLICATION_FACTOR",
        )
        for reason, topics in by_reason.items()
    ]
    later = [topic for topic in missing if topic not in refusals]
    if later:
        findings.append(ok(f"{listed(later)} will be made with their first record"))
    return findings


async def _rights(patient: Patient) -> Findings:
    return judge_rights((await patient.recall(look_at_topics)).states)


def judge_rights(states: Sequence[TopicState]) -> Finding:
    told = [each for each in states if each.operations is not None]
    if not told:
        return skipped("the cluster does not tell" if states else "there is no topic yet")
    unwritable = [s.name for s in told if not (s.operations or frozenset()) & {"WRITE", "ALL"}]
    if unwritable:
        return failed(
            f"relay's user may not write to {listed(unwritable)}",
            "allow it: kafka-acls.sh --add --allow-principal User:… --operation Write --topic …",
        )
    return ok(f"relay's user may write to all {len(told)}")


async def _partitions(patient: Patient) -> Findings:
    found = await patient.recall(look_at_topics)
    return judge_partitions(found.states, await patient.recall(_placed))


def judge_partitions(states: Sequence[TopicState], placed: Iterable[Placed]) -> list[Finding]:
    """A key that lies elsewhere than it would be put now: the number of partitions has changed.

    It matters as long as the topic keeps the records from before.
    """
    now = {each.name: each for each in states}
    moved: dict[str, float] = {}
    looked_at = 0
    for record in placed:
        topic = now.get(record.topic)
        if topic is None:
            continue
        looked_at += 1
        if partition_of(record.key.encode(), topic.partitions) != record.partition:
            moved[record.topic] = min(record.seconds, moved.get(record.topic, record.seconds))
    findings = [
        warning(
            f"{name} has {now[name].partitions} partitions, and had another number"
            f" {span(seconds)} ago: records of one object lie in two of them, in no order",
            "let consumers read to the end of what was there before; never add partitions to a"
            " topic, make a new one (--topic-prefix) and replay",
        )
        for name, seconds in sorted(moved.items())
        if seconds < _retention_seconds(now[name])
    ]
    fine = ok(f"the keys of {looked_at} records lie where they would be put now")
    return findings or [fine if looked_at else skipped("nothing has been sent yet")]


def _retention_seconds(topic: TopicState) -> float:
    milliseconds = number(topic, "retention.ms")
    forever = milliseconds is None or milliseconds < 0
    if forever or "compact" in topic.settings.get("cleanup.policy", ""):
        return float("inf")
    return milliseconds / 1000 if milliseconds is not None else float("inf")


async def _availability(patient: Patient) -> Findings:
    return judge_availability((await patient.recall(look_at_topics)).states)


def judge_availability(states: Sequence[TopicState]) -> list[Finding]:
    """Whether every partition takes records now."""
    findings = []
    leaderless = [each.name for each in states if each.without_leader]
    if leaderless:
        findings.append(
            failed(
                f"partitions of {listed(leaderless)} have no leader: what goes there waits",
                "bring back the brokers that hold them",
            )
        )
    short = [
        f"{each.name} ({each.in_sync} of {number(each, 'min.insync.replicas')})"
        for each in states
        if not each.without_leader and each.in_sync < (number(each, "min.insync.replicas") or 1)
    ]
    if short:
        findings.append(
            failed(
                f"too few replicas are in sync for {listed(short)}: what goes there waits",
                "bring back the brokers that hold them",
            )
        )
    behind = [
        f"{each.name} ({each.in_sync} of {each.replication_factor})"
        for each in states
        if each.in_sync < each.replication_factor
    ]
    if behind and not findings:
        findings.append(
            warning(
                f"not every replica is in sync: {listed(behind)}",
                "look for a broker that is away or slow, before a second one is",
            )
        )
    fine = ok("every partition has a leader and all its replicas")
    return findings or [fine if states else skipped("there is no topic yet")]


async def _replication(patient: Patient) -> Findings:
    found = await patient.recall(look_at_topics)
    defaults = await patient.kafka.settings_of_new_topics()
    return judge_replication(found, patient.settings, defaults)


def judge_replication(
    found: Topics, settings: Settings, defaults: Mapping[str, str]
) -> list[Finding]:
    """``defaults`` are a broker's settings, by which a topic is made that says nothing itself."""
    if found.cluster.brokers < 2:
        return [ok("one broker: every record is there once")]
    findings = []
    single = [each.name for each in found.states if each.replication_factor < 2]
    if single:
        findings.append(
            warning(
                f"one replica only, lost with its broker: {listed(single)}",
                "raise the replication factor (kafka-reassign-partitions.sh)",
            )
        )
    factor = settings.topic_replication_factor
    new = defaults.get("default.replication.factor") if factor < 0 else str(factor)
    if settings.topic_auto_create and found.missing and new == "1":
        findings.append(
            warning(
                "the topics that relay makes would have one replica",
                "set RELAY_TOPIC_REPLICATION_FACTOR=3, or default.replication.factor on the"
                " brokers",
            )
        )
    return findings or [ok("two replicas or more")]


def number(topic: TopicState, setting: str) -> int | None:
    """A setting that is a number; None when the cluster does not tell it."""
    try:
        return int(topic.settings[setting])
    except (KeyError, ValueError):
        return None


KAFKA = ("kafka.reachable",)
TOPICS = (*KAFKA, *SCHEMA)

CHECKS = (
    Check("kafka.reachable", _reachable),
    Check("kafka.topics", _existence, TOPICS),
    Check("kafka.rights", _rights, TOPICS),
    Check("kafka.availability", _availability, TOPICS),
    Check("kafka.partitions", _partitions, TOPICS),
    Check("kafka.replication", _replication, TOPICS),
)
