"""The records that an event must become, worked out a second time and in another way.

Nothing of `relay.core` is used: a body is taken apart into its JSON tokens, and the record is put
together again from these. It is slow, and plain enough to be compared with the documentation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

_token = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"{}\[\]:,]+|[{}\[\]:,]')

CHANGE_TYPES = {"created": "CREATE", "updated": "UPDATE", "deleted": "DELETE"}
OWN_NAMES = {
    "__changeType",
    "__deleted",
    "_event_id",
    "_event_type",
    "_event_created",
    "_api_version",
    "_livemode",
    "_previous_attributes",
}
# Where an object has no id: one per account, or one per customer.
SINGLETONS = {"balance", "balance_settings", "tax.settings"}
OF_CUSTOMERS = {"cash_balance", "entitlements.active_entitlement_summary"}
FAN_OUTS = {
    "invoice": ("lines", "invoice_lines"),
    "charge": ("refunds", "charge_refunds"),
    "subscription": ("items", "subscription_items"),
}


class Settings(msgspec.Struct, frozen=True):
    """The settings of the source that make a difference."""

    name: str
    topic_prefix: str
    route_by: str = "event_type"
    fan_out: bool = False
    tombstones: bool = False


class Expected(msgspec.Struct, frozen=True):
    """A record; ``headers`` without `_inbox_id`, which only the database knows."""

    topic: str
    key: str
    value: str | None
    headers: dict[str, str]


def expected_records(body: bytes, settings: Settings) -> list[Expected]:
    """All records of one event, in their order."""
    event = json.loads(body)
    event_type = event["type"]
    last = event_type.split(".")[-1]
    op = {"created": "c", "deleted": "d"}.get(last, "u")
    target = event["data"]["object"]
    resource = event_type.split(".")[0]
    if settings.route_by == "object":
        resource = target["object"].replace(".", "_")
    headers = {"__op": op, "_event_id": event["id"], "_source": settings.name}
    if "account" in event:
        headers["_account"] = event["account"]
    parent = Expected(
        settings.topic_prefix + resource,
        compact({"id": identity_of(event, target)}),
        value_of(body, op, CHANGE_TYPES.get(last, last.upper())),
        headers,
    )
    records = [parent]
    if op == "d" and settings.tombstones:
        records.append(msgspec.structs.replace(parent, value=None))
    if settings.fan_out and target["object"] in FAN_OUTS and "id" in target:
        records += children(body, target, headers, settings)
    return records


def identity_of(event: dict[str, Any], target: dict[str, Any]) -> str:
    """What the key names."""
    if "id" in target:
        identity = target["id"]
    elif target["object"] in SINGLETONS:
        identity = target["object"]
    elif target["object"] in OF_CUSTOMERS:
        identity = target["customer"]
    else:
        identity = event["id"]
    assert isinstance(identity, str)
    return identity


def value_of(body: bytes, op: str, change_type: str) -> str:
    """The tokens of `data.object` without fields of our names, and our fields behind them."""
    envelope = dict(members(tokens(body)))
    data = dict(members(envelope["data"]))
    null = ["null"]
    own = {
        "__changeType": [f'"{change_type}"'],
        **({"__deleted": ["true"]} if op == "d" else {}),
        "_event_id": envelope["id"],
        "_event_type": envelope["type"],
        "_event_created": envelope.get("created", null),
        "_api_version": envelope.get("api_version", null),
        "_livemode": envelope.get("livemode", null),
        "_previous_attributes": data.get("previous_attributes", null),
    }
    kept = [(name, each) for name, each in members(data["object"]) if name not in OWN_NAMES]
    return join([*kept, *own.items()])


def children(
    body: bytes, target: dict[str, Any], headers: dict[str, str], settings: Settings
) -> list[Expected]:
    """The elements of the object's list as records of their own."""
    field, resource = FAN_OUTS[target["object"]]
    envelope = dict(members(tokens(body)))
    fields = dict(members(dict(members(envelope["data"]))["object"]))
    if not isinstance(target.get(field), dict):
        return []
    headers = headers | {"__op": "u" if headers["__op"] == "d" else headers["__op"]}
    if target[field].get("has_more"):
        headers["__list_truncated"] = "true"
    records = []
    for element in elements(dict(members(fields[field]))["data"]):
        inner = members(element)
        item_id = json.loads("".join(element)).get("id")
        if item_id is not None:
            records.append(
                Expected(
                    settings.topic_prefix + resource,
                    compact({"id": target["id"], "item_id": item_id}),
                    join([*inner, ("_ctx_event_id", envelope["id"])]),
                    headers,
                )
            )
    return records


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def tokens(body: bytes) -> list[str]:
    """The JSON tokens of a body, as they are written."""
    return _token.findall(body.decode("utf-8"))


def members(of: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Names and the tokens of their values, in order, repeated names included."""
    assert of[0] == "{"
    # Sample events have no escapes in names: a name's token is the name.
    return [(part[0].strip('"'), part[2:]) for part in _split(of)]


def elements(of: Sequence[str]) -> list[list[str]]:
    """The tokens of each element of an array."""
    assert of[0] == "["
    return list(_split(of))


def join(pairs: Sequence[tuple[str, Sequence[str]]]) -> str:
    """An object without white space."""
    return "{" + ",".join(f'"{name}":{"".join(value)}' for name, value in pairs) + "}"


def _split(of: Sequence[str]) -> Iterator[list[str]]:
    """What stands between the commas of the outermost level."""
    depth = 0
    part: list[str] = []
    for token in of[1:-1]:
        depth += (token in "{[") - (token in "}]")
        if token == "," and depth == 0:
            yield part
            part = []
        else:
            part.append(token)
    if part:
        yield part
