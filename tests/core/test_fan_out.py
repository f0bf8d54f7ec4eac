"""List elements as records of their own."""

from __future__ import annotations

import json

import pytest

from relay.core.catalog import FAN_OUTS
from relay.core.record import Record
from relay.core.transform import Deliver, Skip, transform
from tests.core.builders import records, source, stored, value_of

LINES = '{"object":"list","data":[%s],"has_more":%s,"url":"/v1/invoices/in_1/lines"}'


def invoice(lines: str, invoice_id: str = '"id":"in_1",') -> str:
    return f'{{{invoice_id}"object":"invoice","lines":{lines}}}'


def children(made: tuple[Record, ...]) -> list[Record]:
    return [record for record in made if record.topic == "invoice_lines"]


def test_a_child_in_full() -> None:
    event = stored(
        "invoice.paid",
        invoice(LINES % ('{"id": "il_1", "amount": 1.10, "_ctx": [ ]}', "false")),
        account="acct_1",
    )
    parent, child = records(event, fan_out=("invoice.lines",))
    assert parent.topic == "invoice"
    assert value_of(parent)["lines"]["data"] == [{"id": "il_1", "amount": 1.10, "_ctx": []}]
    assert child == Record(
        topic="invoice_lines",
        key=b'{"id":"in_1","item_id":"il_1"}',
        value=b'{"id":"il_1","amount":1.10,"_ctx":[],"_ctx_event_id":"evt_1"}',
        headers=parent.headers,
        op="u",
    )
    assert dict(child.headers) == {
        "__op": b"u",
        "_event_id": b"evt_1",
        "_source": b"main",
        "_inbox_id": b"7",
        "_account": b"acct_1",
    }


@pytest.mark.parametrize(
    ("name", "event_type", "object_type", "field", "topic"),
    [
        ("invoice.lines", "invoice.paid", "invoice", "lines", "invoice_lines"),
        ("charge.refunds", "charge.refunded", "charge", "refunds", "charge_refunds"),
        (
            "subscription.items",
            "customer.subscription.updated",
            "subscription",
            "items",
            "subscription_items",
        ),
    ],
)
@pytest.mark.parametrize("resources", [("*",), ("payout",)])
@pytest.mark.parametrize("route_by", ["event_type", "object"])
def test_all_fan_outs_by_the_object_whatever_the_topic(
    name: str,
    event_type: str,
    object_type: str,
    field: str,
    topic: str,
    resources: tuple[str, ...],
    route_by: str,
) -> None:
    target = {
        "id": "p_1",
        "object": object_type,
        field: {"data": [{"id": "c_1"}, {"id": "c_2"}], "has_more": False},
    }
    made = records(
        stored(event_type, json.dumps(target)),
        resources=resources,
        route_by=route_by,
        fan_out=tuple(FAN_OUTS),
        topic_prefix="eu.",
    )
    parent, *elements = made
    assert (parent.topic == "eu.unknown") == (resources == ("payout",))
    assert [(child.topic, child.key) for child in elements] == [
        ("eu." + topic, b'{"id":"p_1","item_id":"c_1"}'),
        ("eu." + topic, b'{"id":"p_1","item_id":"c_2"}'),
    ]
    others = tuple(other for other in FAN_OUTS if other != name)
    assert len(records(stored(event_type, json.dumps(target)), fan_out=others)) == 1
    assert len(records(stored(event_type, json.dumps(target)))) == 1


def test_another_object_in_the_same_topic_has_no_children() -> None:
    target = '{"id":"dp_1","object":"dispute","refunds":{"data":[{"id":"re_1"}]}}'
    assert len(records(stored("charge.dispute.created", target), fan_out=tuple(FAN_OUTS))) == 1


def test_skip_drops_the_children_too() -> None:
    event = stored("invoice.paid", invoice(LINES % ('{"id":"il_1"}', "false")))
    config = source(resources=("customer",), unselected="SKIP", fan_out=("invoice.lines",))
    assert transform(event, config) == Skip("unselected")


@pytest.mark.parametrize(
    ("event_type", "parent_op", "child_op"),
    [("invoice.created", "c", "c"), ("invoice.paid", "u", "u"), ("invoice.deleted", "d", "u")],
)
def test_ops(event_type: str, parent_op: str, child_op: str) -> None:
    event = stored(event_type, invoice(LINES % ('{"id":"il_1"}', "false")))
    parent, child = records(event, fan_out=("invoice.lines",))
    assert (parent.op, child.op) == (parent_op, child_op)
    assert dict(child.headers)["__op"] == child_op.encode()


def test_a_snapshot_is_read_in_its_children_too() -> None:
    event = stored(
        "invoice.snapshot",
        invoice(LINES % ('{"id":"il_1"}', "false")),
        origin="snapshot",
        event_id="snap_9_in_1",
    )
    _, child = records(event, fan_out=("invoice.lines",))
    assert child.op == "r"
    assert value_of(child) == {"id": "il_1", "_ctx_event_id": "snap_9_in_1"}


def test_no_tombstones_for_children() -> None:
    event = stored("invoice.deleted", invoice(LINES % ('{"id":"il_1"}', "false")))
    made = records(event, fan_out=("invoice.lines",), tombstones=True)
    assert [(record.topic, record.value is None) for record in made] == [
        ("invoice", False),
        ("invoice", True),
        ("invoice_lines", False),
    ]


def test_children_without_metadata_still_say_where_they_come_from() -> None:
    event = stored("invoice.paid", invoice(LINES % ('{"id":"il_1"}', "false")))
    _, child = records(event, fan_out=("invoice.lines",), metadata=False)
    assert value_of(child) == {"id": "il_1", "_ctx_event_id": "evt_1"}


@pytest.mark.parametrize(
    ("has_more", "truncated"), [("true", True), ("false", False), ("null", False), ('"yes"', False)]
)
def test_a_list_that_goes_on(has_more: str, truncated: bool) -> None:
    event = stored("invoice.paid", invoice(LINES % ('{"id":"il_1"},{"id":"il_2"}', has_more)))
    parent, *both = records(event, fan_out=("invoice.lines",))
    assert "__list_truncated" not in dict(parent.headers)
    expected = [b"true"] * 2 if truncated else [None] * 2
    assert [dict(child.headers).get("__list_truncated") for child in both] == expected


@pytest.mark.parametrize(
    ("lines", "ids", "dropped"),
    [
        (LINES % ("", "false"), [], 0),
        ("null", [], 0),
        ("{}", [], 0),
        ('{"data":null}', [], 0),
        ('{"data":{"id":"il_1"}}', [], 0),
        ('"il_1"', [], 0),
        ("5", [], 0),
        # As in the oldest API versions.
        ('[{"id":"il_1"},{}]', ["il_1"], 1),
        ('{"data":[{"id":"il_1"}]}', ["il_1"], 0),
        ('{"data":[{"id":"il_0"}],"data":[{"id":"il_1"}]}', ["il_1"], 0),
        ('{"data":[{"id":"a","id":"il_1"}]}', ["il_1"], 0),
        ('{"d\\u0061ta":[{"\\u0069d":"il\\u005f1"}]}', ["il_1"], 0),
        (LINES % ('{},{"id":null},{"id":5},null,"il_9",["x"],{"id":"il_1"}', "false"), ["il_1"], 6),
        (LINES % ('{"id":"\\ud800"}', "false"), ["\ud800"], 0),
        (LINES % ('{"id":"il_1","x":"\\ud800"},{"y":"\\ud800"}', "false"), ["il_1"], 1),
    ],
)
def test_lists_of_any_shape(lines: str, ids: list[str], dropped: int) -> None:
    outcome = transform(stored("invoice.paid", invoice(lines)), source(fan_out=("invoice.lines",)))
    assert isinstance(outcome, Deliver)
    assert [json.loads(child.key)["item_id"] for child in children(outcome.records)] == ids
    assert outcome.children_dropped == dropped
    # The parent keeps its list, whatever it is.
    assert value_of(outcome.records[0])["lines"] == json.loads(lines)


def test_a_field_that_is_absent() -> None:
    outcome = transform(
        stored("charge.updated", '{"id":"ch_1","object":"charge"}'),
        source(fan_out=("charge.refunds",)),
    )
    assert isinstance(outcome, Deliver)
    assert (len(outcome.records), outcome.children_dropped) == (1, 0)


def test_a_parent_without_an_id_has_no_children() -> None:
    lines = LINES % ('{"id":"il_1"},{"id":"il_2"},{}', "true")
    outcome = transform(
        stored("invoice.upcoming", invoice(lines, "")), source(fan_out=("invoice.lines",))
    )
    assert isinstance(outcome, Deliver)
    assert len(outcome.records) == 1
    assert outcome.children_dropped == 3


def test_only_our_own_name_is_taken_from_a_child() -> None:
    element = (
        '{"_ctx_event_id":1,"id":"il_1","_event_id":2,"__changeType":3,"\\u005fctx_event_id":4}'
    )
    event = stored("invoice.paid", invoice(LINES % (element, "false")))
    _, child = records(event, fan_out=("invoice.lines",))
    assert child.value == (b'{"id":"il_1","_event_id":2,"__changeType":3,"_ctx_event_id":"evt_1"}')
