"""JSON as tokens in bytes: exact, iterative, slow.

msgspec does this work a hundred times faster and is used wherever it can be. It refuses lone
surrogates (`"\\ud800"`, which RFC 8259 allows) even in fields that it skips, recurses, and gives
up at the first field of another type than expected. These functions never decode what they do
not have to, so they keep every byte of every token, and never recurse.

Offsets are into the bytes given. `skip` checks the grammar of RFC 8259 in full; the other
functions trust bytes that were checked before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

_SPACE: Final = rb"[ \t\r\n]*+"
_STRING: Final = rb'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"'
_NUMBER: Final = rb"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+"
_SCALAR: Final = rb"(?:" + _STRING + rb"|" + _NUMBER + rb"|true|false|null)"
_KEY: Final = _STRING + _SPACE + rb":" + _SPACE

_space: Final = re.compile(_SPACE).match
_scalar: Final = re.compile(_SCALAR).match
_key: Final = re.compile(rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE).match
# Runs of scalars in one match: most of any document, and what makes `skip` bearable in Python.
_scalar_members: Final = re.compile(
    rb"(?:" + _KEY + _SCALAR + _SPACE + rb"," + _SPACE + rb")*+" + _KEY
).match
_scalar_elements: Final = re.compile(rb"(?:" + _SCALAR + _SPACE + rb"," + _SPACE + rb")*+").match

_significant: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[^" \t\r\n]++', re.DOTALL).findall

_OPEN_OBJECT: Final = ord("{")
_OPEN_ARRAY: Final = ord("[")
_CLOSE_OBJECT: Final = ord("}")
_CLOSE_ARRAY: Final = ord("]")
_COMMA: Final = ord(",")


class MalformedError(ValueError):
    """The bytes are not JSON; `offset` is where that shows."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"not JSON at byte {offset}")
        self.offset = offset


def skip_space(text: bytes, at: int) -> int:
    """The offset of the next significant byte."""
    space = _space(text, at)
    return space.end() if space else at


def skip(text: bytes, at: int) -> int:
    """The end of the value that starts at `at`; raises MalformedError.

    Every token on the way is checked. The nesting costs one byte of memory a level, nothing else.
    """
    closers = bytearray()
    size = len(text)
    while True:
        # A value starts here.
        opener = text[at] if at < size else -1
        if opener in (_OPEN_OBJECT, _OPEN_ARRAY):
            closers.append(opener + 2)  # in ASCII, } is { + 2 and ] is [ + 2
            at = skip_space(text, at + 1)
            if at >= size:
                raise MalformedError(at)
            if text[at] != closers[-1]:
                at = _to_value(text, at, closers[-1])
                continue
        else:
            scalar = _scalar(text, at)
            if scalar is None:
                raise MalformedError(at)
            at = scalar.end()
            if not closers:
                return at
            at = skip_space(text, at)
        # A value ended before `at`, or an empty container ends here.
        while True:
            if at >= size:
                raise MalformedError(at)
            if text[at] == closers[-1]:
                closers.pop()
                at += 1
                if not closers:
                    return at
                at = skip_space(text, at)
                continue
            if text[at] != _COMMA:
                raise MalformedError(at)
            at = _to_value(text, skip_space(text, at + 1), closers[-1])
            break


def _to_value(text: bytes, at: int, closer: int) -> int:
    """From where a member or element must start to where its value, or that of a later one, is."""
    run = (_scalar_members if closer == _CLOSE_OBJECT else _scalar_elements)(text, at)
    if run is None:
        raise MalformedError(at)
    return run.end()


def check(text: bytes) -> int:
    """Checks that `text` is one JSON value and returns where that starts; raises MalformedError."""
    start = skip_space(text, 0)
    end = skip_space(text, skip(text, start))
    if end != len(text):
        raise MalformedError(end)
    return start


def members(text: bytes, at: int) -> Iterator[tuple[str, int, int, int]]:
    """The members of the object that starts at `at`, in order and with repeats.

    Each is (decoded name, start of the name, start of the value, end of the value).
    """
    at = skip_space(text, at + 1)
    while text[at] != _CLOSE_OBJECT:
        key = _key(text, at)
        if key is None:
            raise MalformedError(at)
        end = skip(text, key.end())
        yield string(key[1]), at, key.end(), end
        at = skip_space(text, end)
        if text[at] == _COMMA:
            at = skip_space(text, at + 1)


def elements(text: bytes, at: int) -> Iterator[tuple[int, int]]:
    """The (start, end) of each element of the array that starts at `at`."""
    at = skip_space(text, at + 1)
    while text[at] != _CLOSE_ARRAY:
        end = skip(text, at)
        yield at, end
        at = skip_space(text, end)
        if text[at] == _COMMA:
            at = skip_space(text, at + 1)


def find(text: bytes, at: int, names: frozenset[str]) -> dict[str, bytes]:
    """The tokens of some members of the object at `at`; of a repeated name the last one.

    Empty when there is no object at `at`.
    """
    if text[at : at + 1] != b"{":
        return {}
    return {name: text[start:end] for name, _, start, end in members(text, at) if name in names}


def string(token: bytes) -> str:
    """Decodes a string token; lone surrogates stay what they are."""
    if b"\\" not in token:
        return token[1:-1].decode("utf-8")
    decoded: str = json.loads(token.decode("utf-8"))
    return decoded


def quote(text: str) -> bytes:
    """A string token for `text`, also for one with lone surrogates."""
    return json.dumps(text).encode("ascii")


def minify(text: bytes) -> bytes:
    """Drops the white space between tokens and nothing else."""
    return b"".join(_significant(text))


def remove_members(text: bytes, names: frozenset[str]) -> bytes:
    """Drops every member of one of these names from the outermost object of minified `text`."""
    kept = [text[at:end] for name, at, _, end in members(text, 0) if name not in names]
    return b"{" + b",".join(kept) + b"}"


# Up to 4,096 pieces that together start and end outside a string.
_outside: Final = re.compile(rb'(?:[^"]{1,65536}+|"(?:[^"\\]++|\\.)*+"){1,4096}+', re.DOTALL).match
_strip_strings: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL).sub
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x02\x02\x00\x00")


def deeper_than(text: bytes, limit: int) -> bool:
    """Whether brackets outside strings are ever nested more than `limit` deep.

    Works a chunk at a time and stops at the first bracket too many: 50 MB of `[` cost one chunk.
    Says nothing about text that is not JSON beyond the point where that shows.
    """
    depth = at = 0
    while (chunk := _outside(text, at)) is not None:
        brackets = _strip_strings(b"", chunk[0]).translate(_STEPS, _NOT_BRACKETS)
        at = chunk.end()
        opened = brackets.count(b"\x02")
        if depth + opened > limit:
            # Each byte is a step of +1 or -1, written as 2 or 0.
            running = accumulate(brackets, lambda level, step: level + step - 1, initial=depth)
            if max(running) > limit:
                return True
        depth += 2 * opened - len(brackets)
    return False
