"""All 275 known event types through the whole core, from the bytes to the records."""

from __future__ import annotations

import json

import pytest

from relay.core.catalog import FAN_OUTS
from relay.core.event import peek
from relay.core.listings import API_VERSION
from relay.core.routing import record_key
from relay.core.transform import Deliver, transform
from relay.dev import samples
from relay.dev.samples import Sample
from tests.core.builders import received, source

SAMPLES = list(samples.events())
CONFIG = source(resources=("*",), fan_out=tuple(FAN_OUTS), tombstones=True)


def outcome_of(sample: Sample) -> Deliver:
    outcome = transform(received(sample.body), CONFIG)
    assert isinstance(outcome, Deliver)
    return outcome


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.event_type)
def test_an_event_type(sample: Sample) -> None:
    outcome = outcome_of(sample)
    parent = outcome.records[0]
    target = sample.event["data"]["object"]
    segments = sample.event_type.split(".")
    assert parent.topic == segments[0]
    assert parent.key == record_key(peek(sample.body))
    assert parent.op == {"created": "c", "deleted": "d"}.get(segments[-1], "u")
    assert parent.value is not None
    value = json.loads(parent.value)
    assert list(value)[: len(target)] == list(target)
    assert {name: value[name] for name in target} == target
    assert value["_event_id"] == sample.event_id
    assert value["_event_type"] == sample.event_type
    assert value["_event_created"] == sample.event["created"]
    assert value["_api_version"] == API_VERSION
    assert value["_livemode"] is False
    assert value["_previous_attributes"] == sample.event["data"].get("previous_attributes")
    compact = json.dumps(target, ensure_ascii=False, separators=(",", ":")).encode()
    assert parent.value.startswith(compact[:-1] + b",")
    tombstones = [record for record in outcome.records if record.value is None]
    assert len(tombstones) == (parent.op == "d")
    fields = [rule.field for rule in FAN_OUTS.values() if rule.object_type == target["object"]]
    elements = [element for field in fields for element in target[field]["data"]]
    made = len(outcome.records) - 1 - len(tombstones)
    assert made + outcome.children_dropped == len(elements)
    assert (made == 0) == (not elements or "id" not in target)


def test_the_samples_cover_what_they_should() -> None:
    assert len(SAMPLES) == len({sample.event_type for sample in SAMPLES}) == 275
    assert len({sample.event_id for sample in SAMPLES}) == 275
    assert sum(len(outcome_of(sample).records) > 1 for sample in SAMPLES) > 20
    assert not all(sample.body.isascii() for sample in SAMPLES)


def test_the_same_seed_gives_the_same_bytes() -> None:
    again = [sample.body for sample in samples.events(300, seed=5)]
    assert again == [sample.body for sample in samples.events(300, seed=5)]
    assert again != [sample.body for sample in samples.events(300, seed=6)]


def test_hot_keys() -> None:
    made = list(samples.events(60, types=["invoice.paid", "charge.updated"], object_ids=["a", "b"]))
    assert {sample.object_id for sample in made} == {"a", "b"}
    assert len({(sample.event_type, sample.object_id) for sample in made}) == 4
    assert len({sample.event_id for sample in made}) == 60
    assert {peek(sample.body).object_id for sample in made} == {"a", "b"}


@pytest.mark.parametrize("object_id", ['a"b', "back\\slash", "ü\n"])
def test_an_object_id_of_any_text(object_id: str) -> None:
    made = samples.sample("customer.updated", object_id=object_id)
    assert peek(made.body).object_id == object_id == made.object_id


def test_a_type_that_is_not_in_the_list() -> None:
    made = samples.sample("kunde größe.neu", account="acct_1", livemode=True, event_id="evt_x")
    event = peek(made.body)
    assert (event.event_type, event.event_id) == ("kunde größe.neu", "evt_x")
    assert (event.account, event.livemode) == ("acct_1", True)
