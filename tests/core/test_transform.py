"""The records of an event: topics, keys, headers, fields, fan-out, and what is not sent."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from relay.core.record import Record
from relay.core.transform import Dead, Deliver, Skip, transform
from tests.core.builders import records, source, stored, value_of

META = (
    '"_event_id":"evt_1","_event_type":"{type}","_event_created":1780000000,'
    '"_api_version":"2026-08-26.dahlia","_livemode":false,"_previous_attributes":{previous}'
)


def test_a_record_in_full() -> None:
    event = stored(previous='{ "name" : null }', account="acct_1", replay_id="rep_1")
    meta = META.format(type="customer.updated", previous='{"name":null}')
    assert records(event) == (
        Record(
            topic="customer",
            key=b'{"id":"cus_1"}',
            value=f'{{"id":"cus_1","object":"customer","__changeType":"UPDATE",{meta}}}'.encode(),
            headers=(
                ("__op", b"u"),
                ("_event_id", b"evt_1"),
                ("_source", b"main"),
                ("_inbox_id", b"7"),
                ("_account", b"acct_1"),
                ("_replay_id", b"rep_1"),
            ),
            op="u",
        ),
    )


def test_without_metadata() -> None:
    (record,) = records(stored(previous="{}"), metadata=False)
    assert record.value == b'{"id":"cus_1","object":"customer","__changeType":"UPDATE"}'
    assert dict(record.headers)["_event_id"] == b"evt_1"


@pytest.mark.parametrize(
    ("event_type", "op", "change", "deleted"),
    [
        ("customer.created", "c", "CREATE", False),
        ("customer.updated", "u", "UPDATE", False),
        ("customer.deleted", "d", "DELETE", True),
        ("customer.subscription.created", "c", "CREATE", False),
        ("customer.subscription.deleted", "d", "DELETE", True),
        ("customer.subscription.trial_will_end", "u", "TRIAL_WILL_END", False),
        ("customer.x.paid", "u", "PAID", False),
        ("customer.snapshot", "u", "SNAPSHOT", False),
        ("customer", "u", "CUSTOMER", False),
        ("customer.größe", "u", "GRÖSSE", False),
        ('customer."', "u", '"', False),
        ("customer.DELETED", "u", "DELETED", False),
        ("customer.undeleted", "u", "UNDELETED", False),
    ],
)
def test_what_happened(event_type: str, op: str, change: str, deleted: bool) -> None:
    (record,) = records(stored(event_type), metadata=False)
    assert record.op == op
    assert dict(record.headers)["__op"] == op.encode()
    value = value_of(record)
    assert value["__changeType"] == change
    assert value.get("__deleted") == (True if deleted else None)
    assert ("__deleted" in value) == deleted


def test_our_fields_stand_at_the_end_in_this_order() -> None:
    (record,) = records(stored("customer.deleted"))
    assert list(value_of(record)) == [
        "id",
        "object",
        "__changeType",
        "__deleted",
        "_event_id",
        "_event_type",
        "_event_created",
        "_api_version",
        "_livemode",
        "_previous_attributes",
    ]


def test_metadata_repeats_the_tokens_of_the_envelope() -> None:
    event = stored(
        envelope=',"created":1.78e9,"api_version":"\\u0032026","livemode":true,'
        '"data":{"object":{"id":"cus_1"},"previous_attributes":{"a": 1.10, "a":[ ] }}'
    )
    (record,) = records(event)
    assert record.value == (
        b'{"id":"cus_1","__changeType":"UPDATE","_event_id":"evt_1",'
        b'"_event_type":"customer.updated","_event_created":1.78e9,"_api_version":"\\u0032026",'
        b'"_livemode":true,"_previous_attributes":{"a":1.10,"a":[]}}'
    )


def test_what_the_envelope_lacks_is_null() -> None:
    body = b'{"id":"evt_1","type":"customer.updated","data":{"object":{}}}'
    (record,) = records(stored(object_id="cus_1", body=body))
    assert record.value == (
        b'{"__changeType":"UPDATE","_event_id":"evt_1","_event_type":"customer.updated",'
        b'"_event_created":null,"_api_version":null,"_livemode":null,"_previous_attributes":null}'
    )


@pytest.mark.parametrize(
    ("settings", "event_type", "object_type", "outcome"),
    [
        ({}, "customer.updated", "customer", "customer"),
        ({}, "customer.subscription.updated", "subscription", "customer"),
        ({}, "product.updated", "product", "unknown"),
        ({"topic_prefix": "eu."}, "customer.updated", "customer", "eu.customer"),
        ({"topic_prefix": "eu."}, "product.updated", "product", "eu.unknown"),
        ({"default_topic": "rest"}, "product.updated", "product", "rest"),
        ({"resources": ("*",)}, "product.updated", "product", "product"),
        ({"resources": ("*",)}, "some_day.new", None, "some_day"),
        ({"resources": ("product",)}, "product.updated", "product", "product"),
        ({"resources": ("product",)}, "customer.updated", "customer", "unknown"),
        ({"unselected": "SKIP"}, "product.updated", "product", Skip("unselected")),
        ({"unselected": "SKIP"}, "a b.updated", "product", Skip("unselected")),
        ({"unselected": "SKIP"}, "customer.updated", "customer", "customer"),
        ({"unselected": "FAIL"}, "customer.updated", "customer", "customer"),
        ({"route_by": "object"}, "customer.subscription.updated", "subscription", "unknown"),
        (
            {"route_by": "object", "resources": ("subscription",)},
            "customer.subscription.updated",
            "subscription",
            "subscription",
        ),
        (
            {"route_by": "object", "resources": ("checkout_session",), "topic_prefix": "p-"},
            "checkout.session.completed",
            "checkout.session",
            "p-checkout_session",
        ),
        ({"route_by": "object"}, "customer.updated", None, "customer"),
        ({"route_by": "object", "unselected": "SKIP"}, "customer.x.y", "x", Skip("unselected")),
        ({}, "kunde größe.updated", "customer", "unknown"),
    ],
)
def test_topics(
    settings: dict[str, Any], event_type: str, object_type: str | None, outcome: str | Skip
) -> None:
    made = transform(stored(event_type, object_type=object_type), source(**settings))
    if isinstance(outcome, Skip):
        assert made == outcome
    else:
        assert isinstance(made, Deliver)
        assert [record.topic for record in made.records] == [outcome]


def test_no_route() -> None:
    outcome = transform(stored("product.updated"), source(unselected="FAIL"))
    assert isinstance(outcome, Dead)
    assert outcome.code == "no_route"
    assert "'product'" in outcome.message


@pytest.mark.parametrize("resource", ["kunde größe", "a/b", "a\n", "*", "x" * 247, "é"])
def test_a_name_that_kafka_refuses(resource: str) -> None:
    outcome = transform(stored(f"{resource}.updated"), source(resources=("*",), topic_prefix="eu."))
    assert isinstance(outcome, Dead)
    assert outcome.code == "invalid_topic"
    assert repr("eu." + resource) in outcome.message


def test_the_longest_name() -> None:
    event = stored("x" * 249 + ".updated")
    assert records(event, resources=("*",))[0].topic == "x" * 249


@pytest.mark.parametrize(
    ("mode", "livemode", "sent"),
    [
        ("any", True, True),
        ("any", False, True),
        ("any", None, True),
        ("live", True, True),
        ("live", False, False),
        ("live", None, True),
        ("test", True, False),
        ("test", False, True),
        ("test", None, True),
    ],
)
def test_modes(mode: str, livemode: bool | None, sent: bool) -> None:
    outcome = transform(stored(livemode=livemode), source(mode=mode))
    assert isinstance(outcome, Deliver) if sent else outcome == Skip("livemode_mismatch")


def test_the_other_mode_is_skipped_before_it_can_die() -> None:
    config = source(mode="live", unselected="FAIL")
    assert transform(stored("product.updated"), config) == Skip("livemode_mismatch")


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ('{"id":"cus_1"}', '{"id":"cus_1"}'),
        ('{"id":"a\\"b\\\\\\u00e9\\n"}', '{"id":"a\\"b\\\\é\\n"}'),
        ('{"object":"balance"}', '{"id":"balance"}'),
        ('{"object":"balance_settings"}', '{"id":"balance_settings"}'),
        ('{"object":"tax.settings"}', '{"id":"tax.settings"}'),
        ('{"object":"cash_balance","customer":"cus_9"}', '{"id":"cus_9"}'),
        ('{"object":"cash_balance","customer":{"id":"cus_9"}}', '{"id":"cus_9"}'),
        ('{"object":"cash_balance","customer":null}', '{"id":"evt_1"}'),
        (
            '{"object":"entitlements.active_entitlement_summary","customer":"cus_9"}',
            '{"id":"cus_9"}',
        ),
        ('{"object":"invoice","customer":"cus_9"}', '{"id":"evt_1"}'),
        ('{"object":"billing.alert_triggered"}', '{"id":"evt_1"}'),
        ('{"id":null,"object":"customer"}', '{"id":"evt_1"}'),
        ("{}", '{"id":"evt_1"}'),
    ],
)
def test_keys(target: str, key: str) -> None:
    (record,) = records(stored(target=target))
    assert record.key == key.encode()


def test_a_snapshot() -> None:
    event = stored(
        "subscription.snapshot",
        '{"id":"sub_1","object":"subscription"}',
        origin="snapshot",
        event_id="snap_9_sub_1",
    )
    for route_by in ("event_type", "object"):
        (record,) = records(event, resources=("subscription",), route_by=route_by)
        assert (record.topic, record.op) == ("subscription", "r")
        assert dict(record.headers)["__op"] == b"r"
        value = value_of(record)
        assert value["__changeType"] == "SNAPSHOT"
        assert value["_event_id"] == "snap_9_sub_1"
        assert value["_event_type"] == "subscription.snapshot"
        assert value["_previous_attributes"] is None
        assert "__deleted" not in value


def test_a_snapshot_goes_to_its_resource_under_either_routing() -> None:
    event = stored("payment_method.snapshot", '{"id":"pm_1","object":"card"}', origin="snapshot")
    for route_by in ("event_type", "object"):
        (record,) = records(event, resources=("payment_method",), route_by=route_by)
        assert record.topic == "payment_method"


def test_what_was_reconciled_is_as_if_it_had_been_posted() -> None:
    assert records(stored(origin="reconcile")) == records(stored())


def test_a_tombstone_follows_a_delete() -> None:
    deleted, tombstone = records(stored("customer.deleted"), tombstones=True)
    assert value_of(deleted)["__deleted"] is True
    assert tombstone == msgspec.structs.replace(deleted, value=None)


@pytest.mark.parametrize("event_type", ["customer.created", "customer.updated", "customer.x"])
def test_no_tombstone_without_a_delete(event_type: str) -> None:
    assert len(records(stored(event_type), tombstones=True)) == 1


def test_a_source_name_in_any_script() -> None:
    (record,) = records(stored(), name="Küche 厨房")
    assert dict(record.headers)["_source"] == "Küche 厨房".encode()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b'{"data":{"object":{}}', "invalid_json"),
        (b'{"data":{"object":[]}}', "missing_object"),
        (b'{"data":null}', "missing_object"),
        (b"[]", "missing_object"),
        (b'{"x":' + b"[" * 100_000, "too_deep"),
    ],
)
def test_bytes_that_should_not_be_here_are_dead(body: bytes, code: str) -> None:
    outcome = transform(stored(body=body), source())
    assert isinstance(outcome, Dead)
    assert outcome.code == code


def test_an_event_without_a_type_is_dead() -> None:
    refused = msgspec.structs.replace(stored(), event_type=None)
    assert transform(refused, source()) == Dead("missing_type", "the event has no type")
