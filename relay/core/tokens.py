"""JSON as tokens in bytes: exact, and slower than msgspec.

msgspec is used wherever it can be. It refuses lone surrogates (`"\\ud800"`, which RFC 8259 allows)
even in fields that it skips, gives up at the first field of another type than expected, and never
says where something stood. These functions never decode what they do not have to, keep every byte
of every token, and do not recurse.

Offsets are into the bytes given. All but `is_json` and `deeper_than` trust that they are JSON.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from itertools import accumulate, islice
from typing import Final

import msgspec

_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'


def _matcher(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


_space: Final = _matcher(rb"[ \t\r\n]*+")
_key: Final = _matcher(rb"(" + _STRING + rb")[ \t\r\n]*+:[ \t\r\n]*+")
_scalar: Final = _matcher(_STRING + rb"|[^ \t\r\n,}\]]++")
_significant: Final = _matcher(rb"(?:" + _STRING + rb'|[^" \t\r\n]++)++')
_strings: Final = _matcher(_STRING)
_outside: Final = _matcher(rb'(?:[^"]++|' + _STRING + rb")++")
_to_bracket: Final = _matcher(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+[\[\]{}]")

_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_CHUNK: Final = 1 << 16

_validate: Final = msgspec.json.Decoder(msgspec.Raw).decode


def is_json(text: bytes) -> bool:
    """Whether UTF-8 `text` is one JSON value by RFC 8259, at the speed of msgspec.

    Raises RecursionError when the nesting exceeds what is left of the interpreter's stack.
    """
    # The only JSON that msgspec refuses has lone surrogates: \\ud... and \\ue... differ in nothing
    # else. Where the backslash is itself escaped, one letter is exchanged for another.
    text = text.replace(b"\\ud", b"\\ue").replace(b"\\uD", b"\\ue")
    try:
        _validate(text)
    except msgspec.DecodeError:
        return False
    return True


def skip_space(text: bytes, at: int) -> int:
    """The offset of the next significant byte."""
    return _end(_space, text, at)


def skip(text: bytes, at: int) -> int:
    """The end of the value that starts at `at`."""
    if text[at] not in b"{[":
        return _end(_scalar, text, at)
    depth = 0
    size = 128
    # Looks at no more than a few times the value's own size, and at 50 MB without a Python loop
    # over its brackets.
    for start, _, steps in _chunks(text, at, size):
        levels = list(accumulate(steps, initial=depth))
        if 0 in levels[1:]:
            brackets = _to_bracket.finditer(text, start)
            return next(islice(brackets, levels.index(0, 1) - 1, None)).end()
        depth = levels[-1]
    raise AssertionError("skip was given text that is not JSON")


def members(text: bytes, at: int) -> Iterator[tuple[str, int, int, int]]:
    """The members of the object that starts at `at`, in order and with repeats.

    Each is (decoded name, start of the name, start of the value, end of the value).
    """
    at = skip_space(text, at + 1)
    while text[at] in b'"':
        key = _key.match(text, at)
        assert key is not None
        end = skip(text, key.end())
        yield string(key[1]), at, key.end(), end
        at = _next(text, end)


def elements(text: bytes, at: int) -> Iterator[tuple[int, int]]:
    """The (start, end) of each element of the array that starts at `at`."""
    at = skip_space(text, at + 1)
    while text[at] not in b"]":
        end = skip(text, at)
        yield at, end
        at = _next(text, end)


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
    minified = bytearray()
    for start, end, _ in _chunks(text, 0, _CHUNK):
        minified += b"".join(_significant.findall(text, start, end))
    return bytes(minified)


def remove_members(text: bytes, names: frozenset[str]) -> bytes:
    """Drops every member of one of these names from the outermost object of minified `text`."""
    kept = [text[at:end] for name, at, _, end in members(text, 0) if name not in names]
    return b"{" + b",".join(kept) + b"}"


def deeper_than(text: bytes, limit: int) -> bool:
    """Whether brackets outside strings are ever nested more than `limit` deep.

    Stops at the first chunk with a bracket too many: 50 MB of `[` cost one. Text that is not JSON
    gets some answer.
    """
    depth = 0
    for _, _, steps in _chunks(text, 0, _CHUNK):
        if depth + len(steps) > limit and max(accumulate(steps, initial=depth)) > limit:
            return True
        depth += sum(steps)
    return False


def _chunks(text: bytes, at: int, size: int) -> Iterator[tuple[int, int, array[int]]]:
    """Cuts the rest of `text` outside of strings; what is left after a quote that never closes
    is not there.

    Each chunk is (start, end, its brackets as steps of +1 and -1). The first is of about `size`
    bytes, each later one twice the one before, up to 64 KB or the length of a string.
    """
    while at < len(text):
        chunk = _outside.match(text, at, at + size)
        if chunk is not None:
            brackets = _strings.sub(b"", chunk[0]).translate(_STEPS, _NOT_BRACKETS)
            yield at, chunk.end(), array("b", brackets)
            at = chunk.end()
            size = min(2 * size, _CHUNK)
        elif at + size < len(text):
            size *= 2
        else:
            return


def _next(text: bytes, at: int) -> int:
    """From the end of a member or element to the next one, or to the closing bracket."""
    at = skip_space(text, at)
    return skip_space(text, at + 1) if text[at] in b"," else at


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    match = pattern.match(text, at)
    assert match is not None
    return match.end()
