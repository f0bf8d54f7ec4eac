"""The value has the tokens of `data.object` and our fields: for any object that JSON can write."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from relay.core import value
from relay.core.source import SourceConfig
from relay.core.transform import Deliver, transform
from tests.core import json_texts
from tests.core.builders import received
from tests.core.json_texts import Member, Tokens

SOURCE = SourceConfig(source_id=1, public_id="src_1", name="main")

CREATED: Tokens = [b"1780000000"]
ID: Member = (b'"id"', [b'"x_1"'])
FIELDS = sorted(value.OWN_NAMES)


@st.composite
def events(
    draw: st.DrawFn,
    target: Tokens,
    previous: Tokens | None,
    *,
    created: Tokens = CREATED,
    surrogates: bool,
) -> bytes:
    """An event around these tokens, with other members before, between and after them."""
    anything = json_texts.values(surrogates=surrogates)
    data: list[Member] = [(b'"object"', target)]
    if previous is not None:
        data.append((b'"previous_attributes"', previous))
    if draw(st.booleans()):
        data.append((b'"x"', draw(anything)))
    envelope: list[Member] = [
        (b'"id"', [b'"evt_1"']),
        (b'"type"', [b'"customer.updated"']),
        (b'"created"', created),
        (b'"livemode"', [b"false"]),
        (b'"api_version"', [b'"2026-08-26.dahlia"']),
        (draw(json_texts.string_tokens(st.just("data"))), json_texts.to_object(data)),
        (b'"request"', draw(anything)),
    ]
    text = json_texts.to_object(draw(st.permutations(envelope)))
    if draw(st.booleans()):
        # The last `data` counts, so an earlier one must leave no trace.
        text = [b"{", b'"data"', b":", *draw(anything), b",", *text[1:]]
    return draw(json_texts.spaced(text))


def sent(body: bytes) -> bytes:
    outcome = transform(received(body), SOURCE)
    assert isinstance(outcome, Deliver)
    (record,) = outcome.records
    assert record.value is not None
    return record.value


def added(previous: Tokens | None) -> bytes:
    return (
        b'"__changeType":"UPDATE","_event_id":"evt_1","_event_type":"customer.updated",'
        b'"_event_created":1780000000,"_api_version":"2026-08-26.dahlia","_livemode":false,'
        b'"_previous_attributes":' + (b"null" if previous is None else b"".join(previous))
    )


@given(st.data(), st.booleans())
def test_every_token_in_its_place(data: st.DataObject, surrogates: bool) -> None:
    pairs = data.draw(json_texts.members(["a", "_a", "__changetype"], surrogates=surrogates))
    # `id` decides the key and may be no other type; where it stands does not matter here.
    pairs = [ID, *((key, v) for key, v in pairs if json_texts.decode(key) not in ("id", *FIELDS))]
    target = json_texts.to_object(pairs)
    previous = data.draw(st.none() | json_texts.values(surrogates=surrogates))
    body = data.draw(events(target, previous, surrogates=surrogates))
    made = sent(body)
    assert made == b"".join(target)[:-1] + b"," + added(previous) + b"}"
    assert json_texts.parse(made) == json_texts.parse(b"".join(target)) + json_texts.parse(
        b"{" + added(previous) + b"}"
    )


@given(st.data(), st.booleans())
def test_fields_of_our_names_are_removed_however_written(
    data: st.DataObject, surrogates: bool
) -> None:
    pairs = data.draw(json_texts.members(FIELDS, surrogates=surrogates))
    pairs = [*((key, v) for key, v in pairs if json_texts.decode(key) != "id"), ID]
    body = data.draw(events(json_texts.to_object(pairs), None, surrogates=surrogates))
    kept = [(key, v) for key, v in pairs if json_texts.decode(key) not in value.OWN_NAMES]
    made = sent(body)
    assert made == b"".join(json_texts.to_object(kept))[:-1] + b"," + added(None) + b"}"
    names = [name for _, name, _ in json_texts.parse(made)]
    assert all(names.count(name) == 1 for name in names if name in value.OWN_NAMES)


@given(st.data())
def test_both_paths_read_the_same(data: st.DataObject) -> None:
    target = json_texts.to_object(data.draw(json_texts.members()))
    created = data.draw(json_texts.values())
    body = data.draw(events(target, None, created=created, surrogates=False))
    exactly = b'{"x":"\\ud800",' + body.strip()[1:]
    assert value.read(exactly) == value.read(body)
    assert value.read(body).object == b"".join(target)
    assert value.read(body).created == b"".join(created)


@given(st.data())
def test_elements_keep_their_tokens(data: st.DataObject) -> None:
    items = data.draw(st.lists(json_texts.members(surrogates=data.draw(st.booleans())), max_size=4))
    elements = []
    for number, pairs in enumerate(items):
        others = [(key, v) for key, v in pairs if json_texts.decode(key) != "id"]
        elements.append(json_texts.to_object([(b'"id"', [b'"il_%d"' % number]), *others]))
    payload = b'{"lines":{"data":' + b"".join(json_texts.array(elements)) + b"}}"
    found = value.fan_out(payload, value.FAN_OUTS["invoice.lines"])
    assert found.elements == tuple(
        (f"il_{number}", b"".join(element)) for number, element in enumerate(elements)
    )
    assert found.dropped == 0


def test_an_empty_object() -> None:
    assert value.splice(b"{}", value.OWN_NAMES, b'"a":1') == b'{"a":1}'
    assert value.splice(b'{"_event_id":1}', value.OWN_NAMES, b'"a":1') == b'{"a":1}'


def test_names_inside_the_payload_are_left_alone() -> None:
    inner = b'{"a":{"__deleted":1,"_event_id":[{"__changeType":"x"}]},"b":"_event_id"}'
    made = value.splice(inner, value.OWN_NAMES, b'"c":1')
    assert made == inner[:-1] + b',"c":1}'
    assert json.loads(made)["a"]["__deleted"] == 1
