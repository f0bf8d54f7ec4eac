"""Which topics the settings of the sources lead to, and where the sources meet."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

from relay.core.catalog import ALL_RESOURCES, FAN_OUTS, RESOURCES
from relay.core.source import SourceConfig


class Routes(msgspec.Struct, frozen=True):
    """Where the records of a source may go, and the copies of its dead letters."""

    records: frozenset[str]
    dead_letters: frozenset[str]


class Meeting(msgspec.Struct, frozen=True):
    """Two sources that write to the same topics."""

    one: str
    other: str
    topics: frozenset[str]


def routes_of(config: SourceConfig) -> Routes:
    """The topics that a source may write to; of the schema `*`, those of well-known resources."""
    names = set(config.resources)
    if ALL_RESOURCES in names:
        names = {resource for group in RESOURCES.values() for resource in group}
    elif config.unselected == "DEFAULT_TOPIC":
        names.add(config.default_topic)
    names |= {FAN_OUTS[name].resource for name in config.fan_out}
    dead = {config.dlq_topic} if config.dlq and config.dlq_topic else set()
    return Routes(
        records=frozenset(config.topic_prefix + name for name in names),
        dead_letters=frozenset(config.topic_prefix + name for name in dead),
    )


def named_topics(configs: Sequence[SourceConfig]) -> Routes:
    """The topics that sources name in their settings: not those that `*` may lead to."""
    named = [
        routes_of(
            msgspec.structs.replace(config, resources=(), unselected="SKIP")
            if ALL_RESOURCES in config.resources
            else config
        )
        for config in configs
    ]
    return Routes(
        records=frozenset().union(*(each.records for each in named)),
        dead_letters=frozenset().union(*(each.dead_letters for each in named)),
    )


def meetings(configs: Sequence[SourceConfig]) -> list[Meeting]:
    """The pairs of sources whose records meet. Dead letters may: each says whose it is."""
    found = []
    for one, other in itertools.combinations(configs, 2):
        ours, theirs = routes_of(one), routes_of(other)
        common = (
            (ours.records & theirs.records)
            | (ours.records & theirs.dead_letters)
            | (ours.dead_letters & theirs.records)
        )
        if common:
            found.append(Meeting(one.name, other.name, common))
    return found
