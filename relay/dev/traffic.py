"""What `relay demo` posts, and what has to become of each request. Pure.

Expectations are written down from the contract of the records, without the code under test: an
event is delivered with exactly these contents, dead or skipped for exactly this reason, or refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from itertools import chain, islice
from typing import Any, Final, Literal

import msgspec

from relay.core.catalog import FAN_OUTS
from relay.core.source import SourceConfig
from relay.dev import samples

CONNECTIONS: Final = 8
"""Each posts one event after the other."""

SHOP: Final = SourceConfig(
    source_id=0,
    public_id="",
    name="shop",
    fan_out=tuple(FAN_OUTS),
    tombstones=True,
    mode="test",
)
"""The default schema, so that most resources share the default topic."""
MARKETPLACE: Final = SourceConfig(
    source_id=0,
    public_id="",
    name="marketplace",
    resources=("*",),
    topic_prefix="marketplace-",
)
"""A Connect platform where every resource has a topic, and so may ask for an illegal one."""

OWN_FIELDS: Final = frozenset(
    {
        "__changeType",
        "__deleted",
        "_event_id",
        "_event_type",
        "_event_created",
        "_api_version",
        "_livemode",
        "_previous_attributes",
        "_ctx_event_id",
    }
)
"""What a record's value has besides the object of Stripe."""

# The first of the round of all types, so that a short demo shows what a record can be.
_FEATURED: Final = (
    "invoice.paid",
    "customer.created",
    "charge.refunded",
    "payment_intent.succeeded",
    "customer.subscription.created",
    "customer.deleted",
    "checkout.session.completed",
    "payout.paid",
)
_PLATFORM_TYPES: Final = (
    "account.updated",
    "transfer.created",
    "application_fee.created",
    "capability.updated",
    "person.updated",
)
# No divisor of the number of types: a step that visits all of them, far from its neighbours.
_STRIDE: Final = 101
# In the ten turns of a connection: its own customer again and again, a platform event, any type.
_TURNS: Final = ("any", "own", "any", "any", "platform", "own", "any", "any", "any", "any")
_REPEAT_EVERY: Final = 20

_PREPARED: Final = 1_000
"""Requests of each connection, about 2 MB."""

SPECIALS: Final = 4
"""How many requests ``specials`` are, and how many of these are refused."""
REFUSED: Final = 1

State = Literal["delivered", "dead", "skipped", "refused"]
Repeat = Literal["once", "again", "at_once"]


class Expected(msgspec.Struct, frozen=True):
    """What must become of a request. ``reason`` is the code of whatever is not delivered.

    ``contents`` are the digests of its records' values in their order, None for a tombstone.
    """

    state: State
    reason: str | None = None
    contents: tuple[bytes | None, ...] = ()


class Posting(msgspec.Struct, frozen=True):
    """One request; ``event_id`` is the one in the inbox. ``repeat`` sends it twice.

    ``again`` does so after its answer, ``at_once`` at the same time.
    """

    source: str
    event_id: str
    body: bytes
    expected: Expected
    repeat: Repeat = "once"


def lines(events: int, connections: int = CONNECTIONS) -> list[Iterator[Posting]]:
    """What each connection posts, in its order: ``events`` ordinary ones and the special cases."""
    return [_line(connection, events, connections) for connection in range(connections)]


def prepared(events: int) -> list[Iterator[Posting]]:
    """The same with its first part made already, so that making it costs no time later."""
    return [chain(list(islice(line, _PREPARED)), line) for line in lines(events)]


def _line(connection: int, events: int, connections: int) -> Iterator[Posting]:
    numbers = range(connection, events, connections)
    middle = len(numbers) // 2
    for turn, number in enumerate(numbers):
        if connection == 0 and turn == middle:
            yield from specials(events)
        yield _ordinary(connection, turn, number, connections)


def specials(seed: int) -> Iterator[Posting]:
    """One of each that must not reach an ordinary topic."""
    thin = samples.thin_body(seed)
    # Never under the id that it claims: it could stand in the way of the genuine event.
    thin_id = f"rejected:{sha256(thin).hexdigest()}"
    yield Posting(SHOP.name, thin_id, thin, Expected("dead", "thin_payload"))
    illegal = samples.sample("café.opened", seed=seed, account=_account(seed))
    no_topic = Expected("dead", "invalid_topic")
    yield Posting(MARKETPLACE.name, illegal.event_id, illegal.body, no_topic)
    live = samples.sample("charge.succeeded", seed=seed, livemode=True)
    other_mode = Expected("skipped", "livemode_mismatch")
    yield Posting(SHOP.name, live.event_id, live.body, other_mode)
    forged = samples.sample("payment_intent.succeeded", seed=seed + 1)
    refused = Expected("refused", "signature_wrong")
    yield Posting(SHOP.name, forged.event_id, forged.body, refused)


def _ordinary(connection: int, turn: int, number: int, connections: int) -> Posting:
    kind = _TURNS[turn % len(_TURNS)]
    source, account = SHOP, None
    if kind == "own":
        event = samples.sample(
            "customer.updated", seed=number, object_id=f"cus_RelayDemo{connection:02}"
        )
    elif kind == "platform":
        source, account = MARKETPLACE, _account(number)
        event_type = _PLATFORM_TYPES[number % len(_PLATFORM_TYPES)]
        event = samples.sample(event_type, seed=number, account=account)
    else:
        rounds, place = divmod(turn, len(_TURNS))
        before = rounds * _TURNS.count("any") + _TURNS[:place].count("any")
        event = samples.sample(
            _types()[(before * connections + connection) % len(_types())], seed=number
        )
    body = event.body
    repeat: Repeat = "once"
    if number % _REPEAT_EVERY == 0:
        repeat = "again" if number % (2 * _REPEAT_EVERY) == 0 else "at_once"
    return Posting(source.name, event.event_id, body, delivered(body, source), repeat)


def _account(number: int) -> str:
    return f"acct_1RelayDemo{number % 3}"


@cache
def _types() -> tuple[str, ...]:
    """Every known type, the featured ones first and the others well mixed."""
    names = [event_type.name for event_type in samples.event_types()]
    mixed = [names[number * _STRIDE % len(names)] for number in range(len(names))]
    return (*_FEATURED, *(name for name in mixed if name not in _FEATURED))


def delivered(body: bytes, source: SourceConfig) -> Expected:
    """Contract §5 in a few words: the object, a tombstone when it is gone, the lists' elements."""
    event = exact(body)
    target = event["data"]["object"]
    contents: list[bytes | None] = [digest(target)]
    if event["type"].endswith(".deleted") and source.tombstones:
        contents.append(None)
    for name in source.fan_out:
        rule = FAN_OUTS[name]
        if target["object"] == rule.object_type and target.get("id") and target.get(rule.field):
            # Without an id on either side there is no key, and so no record.
            contents += [digest(each) for each in target[rule.field]["data"] if each.get("id")]
    return Expected("delivered", None, tuple(contents))


def exact(text: bytes) -> Any:
    """JSON with its numbers as they are written: 1.10 is not 1.1."""
    return json.loads(text, parse_float=_Number, parse_int=_Number)


def digest(value: dict[str, Any]) -> bytes:
    """A short stand-in for an object without our own fields, whatever the order of its keys."""
    theirs = {name: field for name, field in value.items() if name not in OWN_FIELDS}
    return sha256(json.dumps(theirs, sort_keys=True).encode()).digest()


class _Number(str):
    """A number's token, kept apart from the string of the same characters."""

    __slots__ = ()

    def __new__(cls, token: str) -> _Number:
        return super().__new__(cls, f"\0{token}")
