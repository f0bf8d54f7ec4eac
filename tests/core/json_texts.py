"""JSON written by hand for property tests: what no serialiser would write, but RFC 8259 allows.

Everything is kept as a list of tokens, so that the expected bytes are known without a parser.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import cycle
from typing import Any

from hypothesis import strategies as st

Tokens = list[bytes]
Member = tuple[bytes, Tokens]

_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

numbers = st.one_of(
    st.integers().map(str),
    st.integers(min_value=10**30, max_value=10**60).map(str),
    st.sampled_from(
        ["1.10", "1e2", "-0", "-0.0", "1E+400", "0.1e-7", "100.0", "9007199254740993", "1" * 5000]
    ),
).map(str.encode)


@st.composite
def string_tokens(
    draw: st.DrawFn,
    text: st.SearchStrategy[str] | None = None,
    *,
    surrogates: bool = False,
) -> bytes:
    """A string, each character of it written in one of the ways in which it may be."""
    # With surrogates, some code points have no raw form at all.
    alphabet = st.characters() if surrogates else st.characters(exclude_categories=["Cs"])
    written = []
    for character in draw(text if text is not None else st.text(alphabet, max_size=8)):
        ways = [_escaped(character), _escaped(character).upper().replace("\\U", "\\u")]
        if character in _SHORT:
            ways.append(_SHORT[character])
        elif character == "/":
            ways.append("\\/")
        if character not in '"\\' and character >= " " and not _is_surrogate(character):
            ways.append(character)
        written.append(draw(st.sampled_from(ways)))
    return ('"' + "".join(written) + '"').encode("utf-8")


def scalars(*, surrogates: bool = False) -> st.SearchStrategy[bytes]:
    return st.one_of(
        st.sampled_from([b"true", b"false", b"null", b'"_"', b'"{[\\"]}"']),
        numbers,
        string_tokens(surrogates=surrogates),
    )


def values(*, surrogates: bool = False) -> st.SearchStrategy[Tokens]:
    return st.recursive(
        scalars(surrogates=surrogates).map(lambda token: [token]),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4).map(array),
            st.lists(st.tuples(string_tokens(surrogates=surrogates), inner), max_size=4).map(
                to_object
            ),
        ),
        max_leaves=12,
    )


def members(
    names: Iterable[str] = (), *, surrogates: bool = False
) -> st.SearchStrategy[list[Member]]:
    """The members of an object, some of them under these names, with repeats."""
    name = st.one_of(
        st.sampled_from(sorted(names) or ["id"]), st.sampled_from(["id", "object", "_x", "__y"])
    )
    key = st.one_of(string_tokens(name), string_tokens(surrogates=surrogates))
    return st.lists(st.tuples(key, values(surrogates=surrogates)), max_size=6)


@st.composite
def spaced(draw: st.DrawFn, tokens: Tokens) -> bytes:
    """The tokens with insignificant white space between them."""
    spaces = draw(
        st.lists(st.sampled_from([b"", b" ", b"\n    ", b"\t", b"\r\n"]), min_size=1, max_size=7)
    )
    return b"".join(part for pair in zip(cycle(spaces), tokens, strict=False) for part in pair)


def array(items: list[Tokens]) -> Tokens:
    return [b"[", *_separated(items), b"]"]


def to_object(pairs: Iterable[Member]) -> Tokens:
    return [b"{", *_separated([[key, b":", *value] for key, value in pairs]), b"}"]


def decode(token: bytes) -> str:
    decoded: str = json.loads(token.decode("utf-8"))
    return decoded


def parse(text: bytes) -> Any:
    """By the standard library, with repeated names and numbers kept as they are written."""
    return json.loads(
        text.decode("utf-8"),
        object_pairs_hook=lambda pairs: [("object", *pair) for pair in pairs],
        parse_int=lambda digits: ("number", digits),
        parse_float=lambda digits: ("number", digits),
        parse_constant=_refuse,
    )


def _separated(parts: list[Tokens]) -> Tokens:
    return [token for index, part in enumerate(parts) for token in ([b","] * (index > 0) + part)]


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
