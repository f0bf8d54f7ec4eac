"""The catalogue is data: these are the only rules it has to keep."""

from __future__ import annotations

from relay.core.catalog import (
    ALL_RESOURCES,
    CUSTOMER_KEYED,
    DEFAULT_RESOURCES,
    FAN_OUTS,
    RESOURCES,
    SINGLETONS,
)
from relay.core.routing import is_legal_topic
from relay.dev import samples

LISTED = [resource for resources in RESOURCES.values() for resource in resources]


def test_each_resource_is_listed_once() -> None:
    assert len(LISTED) == len(set(LISTED))
    assert ALL_RESOURCES not in LISTED
    assert set(DEFAULT_RESOURCES) <= set(LISTED)
    assert all(map(is_legal_topic, LISTED))


def test_resources_are_what_events_start_with_or_snapshots_bring() -> None:
    first_segments = {event_type.name.partition(".")[0] for event_type in samples.event_types()}
    assert set(LISTED) - first_segments == {"balance_transaction"}


def test_fan_outs_are_known_by_what_they_say() -> None:
    for name, rule in FAN_OUTS.items():
        assert name == rule.name == f"{rule.object_type}.{rule.field}"
        assert rule.resource == name.replace(".", "_")
    objects = {event_type.object_type for event_type in samples.event_types()}
    assert {rule.object_type for rule in FAN_OUTS.values()} <= objects


def test_objects_without_an_id_are_known_to_have_none() -> None:
    without = {
        event_type.object_type for event_type in samples.event_types() if not event_type.has_id
    }
    assert without >= SINGLETONS | CUSTOMER_KEYED
    assert not SINGLETONS & CUSTOMER_KEYED
