"""relay.core.tokens against the standard library and a writer that knows its tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core import tokens
from tests.core import json_texts


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b" [] \r\n",
        b'{"a":[1,-0,0.5,1e5,1E-7,true,false,null,"\\u0041\\/\\b"]}',
        b'"\\ud800"',
        b'"\\uDFFF\\uD800"',
        b'{"\\udc00":1}',
        b'"\\\\ud800"',
        b"1" * 5000,
        b'"\x7f"',
    ],
)
def test_what_is_json(text: bytes) -> None:
    assert tokens.is_json(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"{",
        b'{"a":1,}',
        b"[1,]",
        b"[1 2]",
        b'{"a" 1}',
        b"{'a':1}",
        b"{1:2}",
        b"01",
        b"-",
        b"+1",
        b".5",
        b"1.",
        b"1e",
        b"0x1",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"tru",
        b"nulll",
        b'"\x00"',
        b'"\x1f"',
        b'"\t"',
        b'"\\x41"',
        b'"\\u12"',
        b'"\\ud8"',
        b'"\\udfgh"',
        b'"\\',
        b"{} {}",
        b"{}\x00",
        b"\x0b1",
        b"// comment\n1",
        b"[1}",
    ],
)
def test_what_is_not_json(text: bytes) -> None:
    assert not tokens.is_json(text)


@given(st.data())
def test_any_value_is_found_to_its_end(data: st.DataObject) -> None:
    value = data.draw(json_texts.values(surrogates=True))
    text = data.draw(json_texts.spaced(value))
    start = tokens.skip_space(text, 0)
    assert tokens.is_json(text)
    assert tokens.skip(text + b" ,", start) == len(text)
    assert tokens.minify(text) == b"".join(value)


@given(st.data())
def test_members_are_found_in_order_and_with_repeats(data: st.DataObject) -> None:
    pairs = data.draw(json_texts.members(surrogates=True))
    text = data.draw(json_texts.spaced(json_texts.to_object(pairs)))
    start = tokens.skip_space(text, 0)
    found = list(tokens.members(text, start))
    assert [(name, tokens.minify(text[at:end])) for name, _, at, end in found] == [
        (json_texts.decode(key), b"".join(value)) for key, value in pairs
    ]
    assert [text[key:value].rstrip(b" \t\r\n:") for _, key, value, _ in found] == [
        key for key, _ in pairs
    ]


@given(st.data())
def test_elements_are_found_in_order(data: st.DataObject) -> None:
    items = data.draw(st.lists(json_texts.values(surrogates=True), max_size=5))
    text = data.draw(json_texts.spaced(json_texts.array(items)))
    spans = tokens.elements(text, tokens.skip_space(text, 0))
    assert [tokens.minify(text[start:end]) for start, end in spans] == [
        b"".join(item) for item in items
    ]


@pytest.mark.parametrize("size", [1, 100, 127, 128, 129, 70_000, 200_000])
@pytest.mark.parametrize("filling", [b"x", b"{}[[", b'\\"', b"\\\\", "é".encode()])
def test_strings_longer_than_a_chunk(size: int, filling: bytes) -> None:
    string = b'"' + filling * size + b'"'
    value = b'[{"a":' + string + b"},[]," + string + b"]"
    text = b'{"x": ' + value + b', "y": 1}'
    assert tokens.skip(text, 6) == 6 + len(value)
    assert tokens.find(text, 0, frozenset({"x", "y"})) == {"x": value, "y": b"1"}
    assert tokens.minify(text) == text.replace(b": ", b":").replace(b", ", b",")
    assert not tokens.deeper_than(text, 3)
    assert tokens.deeper_than(text, 2)


def test_of_a_repeated_name_the_last_is_found() -> None:
    text = b'{"a":1,"\\u0061":{"b":2},"a":[3]}'
    assert tokens.find(text, 0, frozenset({"a"})) == {"a": b"[3]"}


@pytest.mark.parametrize("text", [b"", b"[1]", b"null", b'"{"'])
def test_nothing_is_found_in_what_is_no_object(text: bytes) -> None:
    assert tokens.find(text, 0, frozenset({"a"})) == {}


@pytest.mark.parametrize("limit", [1, 2, 500])
@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"]}":', b"}]")]
)
def test_depth_is_counted_exactly(limit: int, opening: bytes, closing: bytes) -> None:
    per_unit = opening.count(b"[") + opening.count(b"{")
    for units in range(max(limit // per_unit - 1, 0), limit // per_unit + 2):
        text = opening * units + b'"{{{{[[[["' + closing * units
        assert tokens.deeper_than(text, limit) == (units * per_unit > limit)


def test_depth_of_what_comes_late() -> None:
    shallow = b"[" + b'{"a":[1,2,"]"]},' * 20_000
    assert not tokens.deeper_than(shallow + b"[" * 4 + b"]" * 5, 5)
    assert tokens.deeper_than(shallow + b"[" * 5 + b"]" * 6, 5)


@given(st.binary())
def test_depth_of_anything_is_answered(text: bytes) -> None:
    tokens.deeper_than(text, 3)


@given(st.text(st.characters()))
def test_quoted_text_comes_back(text: str) -> None:
    assert tokens.string(tokens.quote(text)) == text


@given(json_texts.string_tokens(surrogates=True))
def test_strings_are_decoded_as_the_standard_library_does(token: bytes) -> None:
    assert tokens.string(token) == json_texts.decode(token)
