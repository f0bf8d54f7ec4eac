"""What peek reads and what it refuses, case by case."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.core.catalog import CUSTOMER_KEYED
from relay.core.errors import UnusableEvent
from relay.core.event import MAX_DEPTH, MAX_ID_BYTES, Event, peek
from relay.core.listings import API_VERSION
from relay.dev import samples

LONE = '"\\ud800"'
"""A string that sends peek down its exact path."""


def body(
    *,
    data: str = '{"object":{"id":"cus_1","object":"customer"}}',
    drop: str = "",
    extra: str = "",
    **members: str,
) -> bytes:
    """An event from JSON texts."""
    envelope = {
        "id": '"evt_1"',
        "object": '"event"',
        "type": '"customer.updated"',
        "created": "1780000000",
        "livemode": "false",
        "api_version": '"2026-08-26.dahlia"',
        "data": data,
    } | members
    envelope.pop(drop, None)
    text = ",".join(f'"{name}":{value}' for name, value in envelope.items())
    return ("{" + text + extra + "}").encode("utf-8", "surrogatepass")


def code_of(text: bytes) -> str:
    with pytest.raises(UnusableEvent) as refused:
        peek(text)
    assert str(refused.value)
    return refused.value.code


def test_the_facts_of_an_event() -> None:
    assert peek(body(account='"acct_1"')) == Event(
        event_id="evt_1",
        event_type="customer.updated",
        object_type="customer",
        object_id="cus_1",
        customer=None,
        account="acct_1",
        livemode=False,
        api_version="2026-08-26.dahlia",
        created=1780000000,
    )


@pytest.mark.parametrize("sample", list(samples.events()), ids=lambda sample: sample.event_type)
def test_every_known_type(sample: samples.Sample) -> None:
    event = peek(sample.body)
    target = sample.event["data"]["object"]
    assert event == Event(
        event_id=sample.event_id,
        event_type=sample.event_type,
        object_type=sample.object_type,
        object_id=sample.object_id,
        customer=target["customer"] if sample.object_type in CUSTOMER_KEYED else None,
        account=None,
        livemode=False,
        api_version=API_VERSION,
        created=sample.event["created"],
    )
    # The exact path agrees.
    assert peek(b'{"x":"\\udead",' + sample.body[1:]) == event


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "invalid_json"),
    "white space": (b" \n", "invalid_json"),
    "cut": (body()[:-1], "invalid_json"),
    "more after the end": (body() + b"{}", "invalid_json"),
    "NUL after the end": (body() + b"\0", "invalid_json"),
    "NaN": (body(x="NaN"), "invalid_json"),
    "infinity": (body(x="-Infinity"), "invalid_json"),
    "leading zero": (body(x="01"), "invalid_json"),
    "control character": (body(x='"\x01"'), "invalid_json"),
    "bad escape": (body(x='"\\x41"'), "invalid_json"),
    "half an escape beside a lone surrogate": (body(x=LONE, y='"\\ud8"'), "invalid_json"),
    "trailing comma beside a lone surrogate": (body(x=LONE, y="[1,]"), "invalid_json"),
    "form": (b"a=b&c=d", "invalid_json"),
    "HTML": (b"<html></html>", "invalid_json"),
    "latin-1": (body(x='"é"').decode().encode("latin-1"), "not_utf8"),
    "bad byte in a field that is skipped": (body(x='"?"').replace(b"?", b"\xff"), "not_utf8"),
    "surrogate in UTF-8": (body(x='"\udc80"'), "not_utf8"),
    "overlong": (body(x='"?"').replace(b"?", b"\xc0\xaf"), "not_utf8"),
    "cut in a character": (body(x='"é"')[:-3], "not_utf8"),
    "UTF-16": (body().decode().encode("utf-16"), "not_utf8"),
    "UTF-16 without a mark": (body().decode().encode("utf-16-le"), "invalid_json"),
    "byte order mark": (b"\xef\xbb\xbf" + body(), "bom"),
    "array": (b"[" + body() + b"]", "missing_id"),
    "string": (b'"evt_1"', "missing_id"),
    "null": (b"null", "missing_id"),
    "no id": (body(drop="id"), "missing_id"),
    "null id": (body(id="null"), "missing_id"),
    "number as id": (body(id="1"), "missing_id"),
    "empty id": (body(id='""'), "missing_id"),
    "empty id, exactly": (body(id='""', x=LONE), "missing_id"),
    "no type": (body(drop="type"), "missing_type"),
    "null type": (body(type="null"), "missing_type"),
    "list as type": (body(type='["a"]'), "missing_type"),
    "empty type": (body(type='""'), "invalid_type"),
    "one dot": (body(type='"."'), "invalid_type"),
    "leading dot": (body(type='".a"'), "invalid_type"),
    "trailing dot": (body(type='"a."'), "invalid_type"),
    "two dots": (body(type='"a..b"'), "invalid_type"),
    "two dots, exactly": (body(type='"a..b"', x=LONE), "invalid_type"),
    "NUL in the type": (body(type='"a\\u0000.b"'), "invalid_type"),
    "endless type": (body(type=f'"{"a" * (MAX_ID_BYTES + 1)}"'), "invalid_type"),
    "no data": (body(drop="data"), "missing_object"),
    "null data": (body(data="null"), "missing_object"),
    "text as data": (body(data='"{}"'), "missing_object"),
    "empty data": (body(data="{}"), "missing_object"),
    "null object": (body(data='{"object":null}'), "missing_object"),
    "list as object": (body(data='{"object":[{}]}'), "missing_object"),
    "text as object": (body(data='{"object":"{}"}'), "missing_object"),
    "number as object id": (body(data='{"object":{"id":1}}'), "invalid_object_id"),
    "boolean as object id": (body(data='{"object":{"id":false}}'), "invalid_object_id"),
    "object as object id": (body(data='{"object":{"id":{"id":"x"}}}'), "invalid_object_id"),
    "NUL in the id": (body(id='"evt\\u0000"'), "invalid_id"),
    "lone surrogate in the id": (body(id=LONE), "invalid_id"),
    "endless id": (body(id=f'"{"é" * (MAX_ID_BYTES // 2 + 1)}"'), "invalid_id"),
    "NUL in the object id": (body(data='{"object":{"id":"\\u0000"}}'), "invalid_id"),
    "surrogate in the object id": (body(data=f'{{"object":{{"id":{LONE}}}}}'), "invalid_id"),
    "NUL in the account": (body(account='"a\\u0000"'), "invalid_id"),
    "surrogate in the account": (body(account=LONE), "invalid_id"),
    "thin": (samples.thin_body(), "thin_payload"),
    "thin by an escaped name": (
        b'{"\\u006fbject":"v2\\u002ecore.event","type":"v1.customer.created"}',
        "thin_payload",
    ),
    "thin with everything": (body(object='"v2.core.event"'), "thin_payload"),
    "thin with odd type": (body(object='"v2.core.event"', type='"a[b]..c"'), "thin_payload"),
    "thin, exactly": (body(object='"v2.core.event"', x=LONE), "thin_payload"),
}


@pytest.mark.parametrize(("text", "code"), list(REFUSED.values()), ids=list(REFUSED))
def test_what_is_refused(text: bytes, code: str) -> None:
    assert code_of(text) == code


LENIENT: dict[str, tuple[bytes, dict[str, Any]]] = {
    "number as account": (body(account="5"), {"account": None}),
    "empty account": (body(account='""'), {"account": None}),
    "null account": (body(account="null"), {"account": None}),
    "number as livemode": (body(livemode="1"), {"livemode": None}),
    "text as livemode": (body(livemode='"true"'), {"livemode": None}),
    "no livemode": (body(drop="livemode"), {"livemode": None}),
    "live": (body(livemode="true"), {"livemode": True}),
    "null version": (body(api_version="null"), {"api_version": None}),
    "object as version": (body(api_version="{}"), {"api_version": None}),
    "NUL in the version": (body(api_version='"\\u0000"'), {"api_version": None}),
    "text as time": (body(created='"2026-05-28T20:26:40Z"'), {"created": None}),
    "fraction as time": (body(created="1780000000.5"), {"created": None}),
    "exponent as time": (body(created="1e9"), {"created": None}),
    "true as time": (body(created="true"), {"created": None}),
    "before 1970": (body(created="-1"), {"created": None}),
    "1970": (body(created="0"), {"created": 0}),
    "minus zero": (body(created="-0"), {"created": 0}),
    "the last second of 9999": (body(created="253402300799"), {"created": 253402300799}),
    "the year 10000": (body(created="253402300800"), {"created": None}),
    "beyond 64 bits": (body(created="9" * 30), {"created": None}),
    "beyond what int takes": (body(created="9" * 5000), {"created": None}),
    "request as text": (body(request='"req_1"'), {}),
    "request as object": (body(request='{"id":null}'), {}),
    "object as object": (body(object="{}"), {}),
    "no object": (body(drop="object"), {}),
    "object without a name": (body(data='{"object":{"id":"cus_1"}}'), {"object_type": None}),
    "object with a number as name": (
        body(data='{"object":{"id":"cus_1","object":5}}'),
        {"object_type": None},
    ),
    "object with NUL in its name": (
        body(data='{"object":{"id":"cus_1","object":"\\u0000"}}'),
        {"object_type": None},
    ),
    "empty object": (
        body(data='{"object":{}}'),
        {"object_type": None, "object_id": None},
    ),
    "null as object id": (
        body(data='{"object":{"id":null,"object":"customer"}}'),
        {"object_id": None},
    ),
    "null as object id, exactly": (
        body(data='{"object":{"id":null,"object":"customer"}}', x=LONE),
        {"object_id": None},
    ),
    "one segment": (body(type='"ping"'), {"event_type": "ping"}),
    "blank in the type": (body(type='"a. .b"'), {"event_type": "a. .b"}),
    "last id": (body(extra=',"id":"evt_2"'), {"event_id": "evt_2"}),
    "last id after another type": (body(id="5", extra=',"id":"evt_2"'), {"event_id": "evt_2"}),
    "last data": (
        body(extra=',"data":{"object":{"id":"cus_2"}}'),
        {"object_id": "cus_2", "object_type": None},
    ),
    "last object": (
        body(data='{"object":{"id":"cus_2"},"object":{"object":"customer","id":"cus_1"}}'),
        {},
    ),
    "last object id": (
        body(data='{"object":{"id":[],"object":"customer","id":"cus_1"}}', x=LONE),
        {},
    ),
    "escaped names": (
        body(drop="id", extra=',"\\u0069d":"\\u0065vt_1"'),
        {},
    ),
    "surrounded by space": (b" \r\n\t" + body() + b"\n ", {}),
    "surrogates elsewhere": (body(x=LONE, y='{"\\uDFFF":["\\udc00"]}'), {}),
    "an escaped backslash before ud800": (body(x='"\\\\ud800"'), {}),
    "emoji": (body(id='"evt_\\ud83d\\ude00"'), {"event_id": "evt_😀"}),
    "emoji beside a lone surrogate": (body(id='"\\uD83D\\ude00"', x=LONE), {"event_id": "😀"}),
    "the longest id": (
        body(id=f'"{"é" * (MAX_ID_BYTES // 2)}"'),
        {"event_id": "é" * (MAX_ID_BYTES // 2)},
    ),
}


@pytest.mark.parametrize(("text", "changed"), list(LENIENT.values()), ids=list(LENIENT))
def test_what_is_taken(text: bytes, changed: dict[str, Any]) -> None:
    event = peek(text)
    usual = peek(body())
    expected = {name: getattr(usual, name) for name in usual.__struct_fields__} | changed
    assert event == Event(**expected)


@pytest.mark.parametrize("name", sorted(CUSTOMER_KEYED))
@pytest.mark.parametrize(
    ("customer", "expected"),
    [
        ('"cus_1"', "cus_1"),
        ('{"id":"cus_1","object":"customer"}', "cus_1"),
        ('{"metadata":{"id":"x"},"id":5,"id":"cus_1"}', "cus_1"),
        ("null", None),
        ("5", None),
        ("{}", None),
        ('""', None),
        ('{"id":null}', None),
        (LONE, None),
        ('"\\u0000"', None),
    ],
)
@pytest.mark.parametrize("other", ["0", LONE])
def test_the_customer_of_objects_that_have_no_id(
    name: str, customer: str, expected: str | None, other: str
) -> None:
    data = f'{{"object":{{"object":"{name}","customer":{customer},"x":{other}}}}}'
    assert peek(body(data=data)).customer == expected


def test_the_customer_of_other_objects_is_not_looked_at() -> None:
    assert peek(body(data='{"object":{"object":"charge","customer":"cus_1"}}')).customer is None


def nested(levels: int, opening: str, closing: str, *, lead: int = 0) -> bytes:
    """An event that nests `levels` deep, the envelope included."""
    extra = opening * (levels - 1) + "1" + closing * (levels - 1)
    return body(lead="[" + "[0]," * lead + "0]", deep=extra)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("lead", [0, 1000])
def test_nesting(opening: str, closing: str, lead: int) -> None:
    assert peek(nested(MAX_DEPTH, opening, closing, lead=lead)).event_id == "evt_1"
    assert code_of(nested(MAX_DEPTH + 1, opening, closing, lead=lead)) == "too_deep"


@pytest.mark.parametrize("levels", [MAX_DEPTH, MAX_DEPTH + 1])
def test_nesting_of_nothing_but_the_object(levels: int) -> None:
    # The envelope, data and data.object are the first three levels.
    deep = "[" * (levels - 3) + "]" * (levels - 3)
    text = body(data=f'{{"object":{{"id":"cus_1","object":"customer","x":{deep}}}}}')
    assert text.count(b"[") + text.count(b"{") == levels
    if levels > MAX_DEPTH:
        assert code_of(text) == "too_deep"
    else:
        assert peek(text) == peek(body())


def test_nesting_beside_a_lone_surrogate() -> None:
    deep = "[" * (MAX_DEPTH - 1) + LONE + "]" * (MAX_DEPTH - 1)
    assert peek(body(x=deep)).event_id == "evt_1"


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_bottomless_nesting_is_refused(opening: str) -> None:
    assert code_of(opening.encode() * 200_000) == "too_deep"


def test_brackets_in_strings_are_no_nesting() -> None:
    assert peek(body(x=json.dumps('[{"' * 1000))).event_id == "evt_1"


def test_characters_across_the_chunks_of_a_large_body() -> None:
    for offset in range(4):
        text = body(x='"' + "a" * offset + "😀" * 600_000 + '"')
        assert peek(text).event_id == "evt_1"
        assert code_of(text.replace("😀".encode() + b'"', b'\xf0\x9f\x98"')) == "not_utf8"
