"""The pages of what stands in Kafka: real records, and the way of every type of event."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from relay.core.catalog import ALL_RESOURCES, CUSTOMER_KEYED, FAN_OUTS, SINGLETONS
from relay.core.event import peek
from relay.core.record import Record
from relay.core.routing import record_key
from relay.core.source import SourceConfig
from relay.core.transform import Deliver, StoredEvent, dead_letter_record, transform
from relay.dev import samples
from website.markdown import block, code, codes, table

HEADERS = {
    "__op": "`c` created, `u` changed, `d` deleted, `r` read by a snapshot",
    "_event_id": "Stripe's id of the event: deduplicate on it. `snap_…` for snapshots",
    "_source": "name of the source",
    "_inbox_id": "number of the event in the inbox; grows, and tells an older record of a key from a newer one",
    "_account": "the connected account, for events of Stripe Connect",
    "_replay_id": "the replay that sent it; missing the first time",
    "__list_truncated": "`true` on children of a list that Stripe has not sent whole",
}
DEAD_LETTER_HEADERS = {
    "__error_code": "why, as a word: [codes](codes.md)",
    "__error": "why, for people; cut after 1,000 characters",
    "__attempts": "failures of the event by itself before",
    "_source": "name of the source",
    "_event_id": "Stripe's id of the event; `rejected:<sha256>` of a body that is no usable event",
    "_event_type": "Stripe's type of the event, if it has one",
    "__truncated": "`true` when the body was cut to fit the topic",
}
FIELDS = {
    "__changeType": "`CREATE`, `UPDATE`, `DELETE`, `SNAPSHOT`, or the last segment of the type in capitals",
    "__deleted": "`true`, with deletes only",
    "_event_id": "as in the header",
    "_event_type": "Stripe's type of the event",
    "_event_created": "when Stripe made the event, in Unix seconds",
    "_api_version": "the version that the object is written in",
    "_livemode": "whether it is of the live mode",
    "_previous_attributes": "what the changed fields were before, as Stripe tells it; null when it does not",
}
CHILD_FIELDS = {"_ctx_event_id": "the id of the event that the list came with"}

_INTRO = """# Records

What relay writes to Kafka. The examples on this page are made by the code that forwards events, out of made-up objects.
[Reading the topics](../consumers.md) says what a consumer makes of them.

## The parts

The **topic** is the prefix of the source and the first segment of the event's type, or with `--route-by object` the object's
own name; what is outside of the schema goes to the default topic, is skipped, or fails, as the source says.
[Event types](event-types.md) shows it for every type that is known.

The **key** is compact JSON: `{"id":"<id of the object>"}`. It is never null:
"""
_VALUE = """
The **value** is Stripe's object, token for token: numbers, escapes and the order of fields are as they were received. At its
end stand fields of ours; a field of the payload that has one of these names is removed.
"""


def _source(**settings: Any) -> SourceConfig:
    return SourceConfig(source_id=1, public_id="src_1", name="shop", **settings)


def _stored(body: bytes, inbox_id: int = 1, **changes: Any) -> StoredEvent:
    event = peek(body)
    fields = {name: getattr(event, name) for name in event.__struct_fields__ if name != "customer"}
    given = {"inbox_id": inbox_id, "origin": "webhook", "body": body}
    return StoredEvent(**(fields | given | changes))


def _records(event: StoredEvent, source: SourceConfig) -> tuple[Record, ...]:
    made = transform(event, source)
    assert isinstance(made, Deliver), made
    return made.records


def _small(event_type: str, target: str, tail: str = "", **envelope: object) -> bytes:
    head = {"id": "evt_1P", "object": "event", "type": event_type, "created": 1780000000}
    head |= {"api_version": "2026-08-26.dahlia", "livemode": True} | envelope
    text = json.dumps(head, separators=(",", ":"))[:-1]
    return f'{text},"data":{{"object":{target}{tail}}}}}'.encode()


def examples() -> Iterator[tuple[str, tuple[Record, ...]]]:
    """Titles and records of an event each; together they carry every header and field."""
    customer = '{"id":"cus_9","object":"customer","balance":-1.10,"email":"ada@example.com"}'
    was = ',"previous_attributes":{"email":"a@example.com"}'
    yield (
        "A customer changes, in a connected account",
        _records(
            _stored(_small("customer.updated", customer, was, account="acct_7"), 41), _source()
        ),
    )
    yield (
        "It is deleted, with `--tombstones`, and sent again by a replay",
        _records(
            _stored(_small("customer.deleted", customer), 42, replay_id="rpl_5"),
            _source(tombstones=True),
        ),
    )
    lines = (
        '{"object":"list","data":[{"id":"il_1","object":"line_item","amount":500},'
        '{"id":"il_2","object":"line_item","amount":250}],"has_more":true}'
    )
    invoice = f'{{"id":"in_3","object":"invoice","amount_paid":750,"lines":{lines}}}'
    yield (
        "An invoice is paid, with `--fan-out invoice.lines`",
        _records(_stored(_small("invoice.paid", invoice), 43), _source(fan_out=("invoice.lines",))),
    )
    snapshot = _small(
        "customer.snapshot", customer, id="snap_0ec8cf6f1268_cus_9", created=1780000100
    )
    yield (
        "A snapshot reads a customer, with `--no-metadata`",
        _records(_stored(snapshot, 44, origin="snapshot"), _source(metadata=False)),
    )
    dead = _stored(_small("mandate.updated", '{"id":"mandate_1","object":"mandate"}'), 45)
    copy = dead_letter_record(dead, _source(), "no_route", "resource 'mandate' is not …", 0, 60)
    yield "A dead letter, cut to 60 bytes to show it", (copy,)


def page() -> str:
    keys = [
        ("objects with an id", '`{"id":"cus_9"}`'),
        (codes(sorted(SINGLETONS)), 'the object\'s name: `{"id":"balance"}`'),
        (codes(sorted(CUSTOMER_KEYED)), "the customer's id"),
        ("all other objects without an id", "the event's id"),
        ("elements of a fanned-out list", '`{"id":"in_3","item_id":"il_1"}`'),
    ]
    fan_outs = [
        (code(f.name), code(f.object_type), code(f.field), code(f.resource))
        for f in FAN_OUTS.values()
    ]
    parts = [
        _INTRO,
        table(("of", "key"), keys),
        _VALUE,
        table(("field", "what it is"), _told(FIELDS)),
        "Fields of the children of a fanned-out list:\n",
        table(("field", "what it is"), _told(CHILD_FIELDS)),
        "Headers:\n",
        table(("header", "what it is"), _told(HEADERS)),
        "Headers on the dead letter topic, where the key is that of the event's id and the value the"
        " body as it was received:\n",
        table(("header", "what it is"), _told(DEAD_LETTER_HEADERS)),
        "## Lists that can be fanned out\n",
        table(("`--fan-out`", "object", "its list", "topic of the elements"), fan_outs),
        "## Examples\n",
    ]
    for title, records in examples():
        parts += [f"### {title}\n", block("text", "\n\n".join(map(_shown, records)))]
    return "\n".join(parts)


def _told(words: dict[str, str]) -> list[tuple[str, str]]:
    return [(code(name), text) for name, text in words.items()]


def _shown(record: Record) -> str:
    lines = [f"topic    {record.topic}", f"key      {record.key.decode()}"]
    lines += [f"header   {name} = {value.decode()}" for name, value in record.headers]
    value = "null (a tombstone)" if record.value is None else record.value.decode()
    return "\n".join([*lines, f"value    {value}"])


_TYPES = """# Event types

The {count} types of snapshot events that Stripe is known to send, and what becomes of each in a source with `--schema '*'`. The
list is documentation and no gate: a type that is not here goes its way by the same rules. Snapshots have `__op` `r` and
`__changeType` `SNAPSHOT`.
"""


def types_page() -> str:
    rows = []
    for known in samples.event_types():
        body = samples.sample(known.name).body
        routed = {
            by: _records(_stored(body), _source(resources=(ALL_RESOURCES,), route_by=by))[0]
            for by in ("event_type", "object")
        }
        record = routed["event_type"]
        change = json.loads(record.value or b"{}")["__changeType"]
        rows.append(
            (
                code(known.name),
                code(record.topic),
                code(routed["object"].topic),
                "its id" if known.has_id else _keyed(body),
                code(record.op),
                code(change),
            )
        )
    head = ("type", "topic", "by object", "key", "`__op`", "`__changeType`")
    return f"{_TYPES.format(count=len(rows))}\n{table(head, rows)}"


def _keyed(body: bytes) -> str:
    event = peek(body)
    key = json.loads(record_key(event))["id"]
    if key == event.object_type:
        return code(key)
    return "the event's id" if key == event.event_id else "the customer's id"
