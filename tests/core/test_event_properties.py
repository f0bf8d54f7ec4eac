"""peek against the same rules written in the slow and simple way, on any bytes."""

from __future__ import annotations

import json
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from relay.core.catalog import CUSTOMER_KEYED
from relay.core.errors import UnusableEvent
from relay.core.event import MAX_ID_BYTES, Event, peek
from relay.dev import samples
from tests.core import json_texts


def expected(text: bytes) -> Event | str:
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        return "not_utf8"
    if decoded.startswith("\ufeff"):
        return "bom"
    try:
        event = json.loads(decoded, parse_constant=refuse, parse_int=Number, parse_float=float)
    except ValueError:
        return "invalid_json"
    envelope = event if isinstance(event, dict) else {}
    if envelope.get("object") == "v2.core.event":
        return "thin_payload"
    match envelope:
        case {"id": str() as event_id} if event_id:
            pass
        case _:
            return "missing_id"
    match envelope:
        case {"type": str() as event_type}:
            if "" in event_type.split("."):
                return "invalid_type"
        case _:
            return "missing_type"
    match envelope:
        case {"data": {"object": dict() as about}}:
            pass
        case _:
            return "missing_object"
    object_id = about.get("id")
    if object_id is not None and type(object_id) is not str:
        return "invalid_object_id"
    if not storable(event_id):
        return "invalid_id"
    if not storable(event_type):
        return "invalid_type"
    account = text_or_none(envelope.get("account")) or None
    if not all(storable(name) for name in (object_id, account) if name is not None):
        return "invalid_id"
    object_type = storable_or_none(about.get("object"))
    customer = None
    if object_type in CUSTOMER_KEYED:
        customer = about.get("customer")
        customer = customer.get("id") if isinstance(customer, dict) else customer
        customer = storable_or_none(customer) or None
    livemode = envelope.get("livemode")
    created = envelope.get("created")
    is_short = isinstance(created, Number) and len(created.digits) < 20
    seconds = int(created.digits) if is_short else -1
    return Event(
        event_id=event_id,
        event_type=event_type,
        object_type=object_type,
        object_id=object_id,
        customer=customer,
        account=account,
        livemode=livemode if isinstance(livemode, bool) else None,
        api_version=storable_or_none(envelope.get("api_version")),
        created=seconds if 0 <= seconds <= 253402300799 else None,
    )


class Number(NamedTuple):
    digits: str


def refuse(constant: str) -> None:
    raise ValueError(constant)


def text_or_none(value: object) -> str | None:
    return value if type(value) is str else None


def storable_or_none(value: object) -> str | None:
    text = text_or_none(value)
    return text if text is not None and storable(text) else None


def storable(text: str) -> bool:
    encoded = text.encode("utf-8", "surrogatepass")
    surrogates = any("\ud800" <= character <= "\udfff" for character in text)
    return not surrogates and "\0" not in text and len(encoded) <= MAX_ID_BYTES


def answer(text: bytes) -> Event | str:
    try:
        return peek(text)
    except UnusableEvent as error:
        return error.code


ENVELOPE = ["id", "object", "type", "created", "livemode", "api_version", "account", "data"]


def pairs(
    names: list[str], value: st.SearchStrategy[json_texts.Tokens]
) -> st.SearchStrategy[list[json_texts.Member]]:
    key = json_texts.string_tokens(st.sampled_from(names))
    return st.lists(st.tuples(key, value), max_size=12)


@st.composite
def envelopes(draw: st.DrawFn) -> bytes:
    """Events of which anything may be missing, repeated or of a wrong type."""
    anything = json_texts.values(surrogates=True)
    word = json_texts.string_tokens(
        st.one_of(
            st.sampled_from(["evt_1", "a.b", "a..b", "event", "v2.core.event", "", "cash_balance"]),
            st.text(st.characters(), max_size=5),
        ),
        surrogates=True,
    ).map(lambda token: [token])
    seconds = st.integers(-1, 2**38).map(lambda number: [str(number).encode()])
    inner = draw(pairs(["id", "object", "customer"], st.one_of(word, word, anything)))
    target = [(b'"object"', json_texts.to_object(inner))]
    if draw(st.booleans()):
        target += draw(pairs(["object", "x"], anything))
    outer = [
        (b'"id"', draw(word)),
        (b'"type"', draw(word)),
        (b'"data"', json_texts.to_object(target)),
        *draw(pairs(ENVELOPE, st.one_of(word, seconds, anything))),
    ]
    return draw(json_texts.spaced(json_texts.to_object(draw(st.permutations(outer)))))


@given(envelopes())
def test_peek_agrees_with_the_simple_way(text: bytes) -> None:
    assert answer(text) == expected(text)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real event with some bytes replaced, removed or added."""
    text = bytearray(samples.sample(draw(st.sampled_from(["invoice.paid", "a.b"]))).body)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text) - 1))
        junk = draw(st.one_of(st.binary(max_size=3), st.sampled_from([b'"', b"}", b"\\", b"[0,"])))
        text[at : at + draw(st.integers(0, 3))] = junk
    return bytes(text)


@given(st.one_of(damaged(), st.binary()))
@example(b'{"id":"\\ud800')
@example(b'{"\xed\xa0\x80":1}')
def test_any_bytes_are_answered_as_in_the_simple_way(text: bytes) -> None:
    assert answer(text) == expected(text)
