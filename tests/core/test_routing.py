"""Keys, lanes and names."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.event import Event
from relay.core.routing import (
    LANES,
    is_legal_topic,
    item_key_of,
    key_of,
    lane_of,
    record_key,
    resource_of,
)


def event(
    event_type: str = "customer.updated",
    object_type: str | None = "customer",
    object_id: str | None = None,
    customer: str | None = None,
) -> Event:
    return Event("evt_1", event_type, object_type, object_id, customer, None, None, None, None)


@pytest.mark.parametrize(
    ("about", "key"),
    [
        (event(object_id="cus_1"), b'{"id":"cus_1"}'),
        (event(object_id=""), b'{"id":""}'),
        (event(object_type="balance", object_id="bal_1"), b'{"id":"bal_1"}'),
        (event(object_type="balance"), b'{"id":"balance"}'),
        (event(object_type="balance_settings"), b'{"id":"balance_settings"}'),
        (event(object_type="tax.settings"), b'{"id":"tax.settings"}'),
        (event(object_type="cash_balance", customer="cus_2"), b'{"id":"cus_2"}'),
        (event(object_type="cash_balance"), b'{"id":"evt_1"}'),
        (event(object_type="charge", customer="cus_2"), b'{"id":"evt_1"}'),
        (event(object_type=None), b'{"id":"evt_1"}'),
    ],
)
def test_record_key(about: Event, key: bytes) -> None:
    assert record_key(about) == key


@given(st.text(st.characters()), st.text(st.characters()))
def test_keys_are_json_of_any_text(parent: str, element: str) -> None:
    assert json.loads(key_of(parent)) == {"id": parent}
    assert json.loads(item_key_of(parent, element)) == {"id": parent, "item_id": element}
    assert key_of(parent).startswith(b'{"id":"')


def test_lanes_never_change() -> None:
    # What is queued under a lane stays in line only as long as these hold.
    assert lane_of(b'{"id":"cus_1"}') == (48, -605751674646576528)


@given(st.binary())
def test_lanes_fit_their_columns(key: bytes) -> None:
    lane, key_hash = lane_of(key)
    assert 0 <= lane < LANES
    assert -(2**63) <= key_hash < 2**63
    assert lane == key_hash % LANES


def test_lanes_are_used_evenly() -> None:
    used = Counter(lane_of(key_of(f"cus_{number}"))[0] for number in range(6400))
    assert len(used) == LANES
    assert max(used.values()) < 200


@pytest.mark.parametrize(
    ("event_type", "object_type", "by_type", "by_object"),
    [
        ("customer.updated", "customer", "customer", "customer"),
        ("customer.subscription.updated", "subscription", "customer", "subscription"),
        ("checkout.session.completed", "checkout.session", "checkout", "checkout_session"),
        ("a.b", "x.y.z", "a", "x_y_z"),
        ("ping", None, "ping", "ping"),
        ("ping", "", "ping", "ping"),
    ],
)
def test_resource_of(event_type: str, object_type: str, by_type: str, by_object: str) -> None:
    about = event(event_type, object_type)
    assert resource_of(about, "event_type") == by_type
    assert resource_of(about, "object") == by_object


@pytest.mark.parametrize("topic", ["a", "A-Z_0.9", "...", ".a", "-", "_", "x" * 249])
def test_legal_topics(topic: str) -> None:
    assert is_legal_topic(topic)


@pytest.mark.parametrize(
    "topic", ["", ".", "..", "x" * 250, "a b", "a/b", "ä", "a\n", "\na", "a\0", "a:b", "１"]
)
def test_illegal_topics(topic: str) -> None:
    assert not is_legal_topic(topic)
