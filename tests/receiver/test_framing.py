"""Where requests start and end, whatever the network cuts the bytes into."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.receiver.framing import BadRequestError, ChunkedBody, Head, HeadTooLargeError

HEAD = b"POST /webhooks/src_1?api_key=k HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"


def read_head(data: bytes, cuts: list[int], limit: int = 65_536) -> tuple[Head, bytes]:
    head = Head(limit)
    edges = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    for start, stop in pairwise(edges):
        if head.complete:
            return head, data[start:]
        end = head.feed(data[start:stop], 0)
        if head.complete:
            return head, data[start + end :]
    return head, b""


@given(st.lists(st.integers(min_value=0, max_value=10_000), max_size=12), st.binary(max_size=40))
def test_a_head_ends_at_its_blank_line_wherever_it_is_cut(cuts: list[int], rest: bytes) -> None:
    head, left = read_head(HEAD + rest, cuts)
    assert head.complete
    assert left == rest
    assert head.target == b"/webhooks/src_1?api_key=k"
    assert head.headers == [(b"host", b"a"), (b"content-length", b"3")]
    assert (head.method, head.content_length, head.keep_alive) == ("POST", 3, True)


@pytest.mark.parametrize("cuts", [[], [1], [len(HEAD) - 1], [20, 30, 40]])
def test_the_limit_counts_every_byte_of_the_head(cuts: list[int]) -> None:
    head, _ = read_head(HEAD + b"body", cuts, limit=len(HEAD))
    assert head.complete
    with pytest.raises(HeadTooLargeError):
        read_head(HEAD + b"body", cuts, limit=len(HEAD) - 1)


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Length: -1",
        b"Content-Length: +3",
        b"Content-Length: 3, 3",
        b"Content-Length: 0x3",
        b"Content-Length: 3\r\nContent-Length: 3",
        b"Content-Length: 3\r\nContent-Length: 4",
        b"Content-Length: 99999999999999999999999",
        b"Content-Length:",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3",
        b"Transfer-Encoding: gzip",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding:",
        b"Name : value",
        b" folded: value",
        b"A: b\r\n folded",
        b"no colon",
        b": no name",
        b"A: nul\0",
        b"A: bare\nB: line feed",
        b"A: bare\rB: carriage return",
    ],
)
def test_ambiguous_heads_are_refused(line: bytes) -> None:
    with pytest.raises(BadRequestError):
        read_head(b"POST / HTTP/1.1\r\n" + line + b"\r\n\r\n", [])


@pytest.mark.parametrize(
    "request_line",
    [
        b"POST /",
        b"POST / HTTP/0.9",
        b"POST / HTTP/2.0",
        b"POST / HTTP/1.1 x",
        b"P",
    ],
)
def test_other_protocols_are_refused(request_line: bytes) -> None:
    with pytest.raises(BadRequestError):
        read_head(request_line + b"\r\n\r\n", [])


def test_chunks_of_http_1_0_are_refused() -> None:
    with pytest.raises(BadRequestError):
        read_head(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", [])


def test_an_offered_upgrade_is_ignored_and_the_body_is_not_lost() -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    head, left = read_head(HEAD[:-2] + upgrade + b"\r\nabc", [])
    assert head.complete
    assert head.content_length == 3
    assert left == b"abc"


def read_chunks(data: bytes, cuts: list[int]) -> tuple[ChunkedBody, bytes, bytes]:
    chunks, body = ChunkedBody(), b""
    edges = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    for start, stop in pairwise(edges):
        piece, end = chunks.feed(data[start:stop], 0)
        body += piece
        if chunks.complete:
            return chunks, body, data[start + end :]
    return chunks, body, b""


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=6),
    st.lists(st.integers(min_value=0, max_value=10_000), max_size=12),
    st.sampled_from([b"", b";a=b", b' ; a="b c"']),
    st.sampled_from([b"", b"Trailer: x\r\n", b"A: b\r\nC: d\r\n"]),
    st.binary(max_size=20),
)
def test_chunks_give_the_body_wherever_they_are_cut(
    pieces: list[bytes], cuts: list[int], extension: bytes, trailers: bytes, rest: bytes
) -> None:
    coded = b"".join(b"%x%s\r\n%s\r\n" % (len(p), extension, p) for p in pieces)
    chunks, body, left = read_chunks(coded + b"0\r\n" + trailers + b"\r\n" + rest, cuts)
    assert chunks.complete
    assert body == b"".join(pieces)
    assert left == rest


@pytest.mark.parametrize(
    "coded",
    [
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\na\r\n",
        b"0x1\r\na\r\n",
        b"\r\n",
        b" 1\r\na\r\n",
        b"1\na\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n\r",
        b"1\r\na\rb",
        b"2\r\na\r\n0\r\n\r\n",
        b"1 a\r\n",
        b"1;\0\r\n",
        b"1_0\r\n",
        b"\xd9\xa1\r\n",
        b"fffffffffffffffff\r\n",
        b"1" * 5000,
        b"1;" + b"a" * 5000,
        b"0\r\na: b\n\r\n",
    ],
)
@pytest.mark.parametrize("one_by_one", [False, True])
def test_broken_chunks_are_refused(coded: bytes, one_by_one: bool) -> None:
    with pytest.raises(BadRequestError):
        read_chunks(coded, list(range(len(coded))) if one_by_one else [])


def test_trailers_are_bounded_like_headers() -> None:
    with pytest.raises(HeadTooLargeError):
        read_chunks(b"0\r\n" + b"a: b\r\n" * 20_000, [])
    with pytest.raises(HeadTooLargeError):
        read_chunks(b"0\r\n" + b"a" * 100_000, [])


@given(st.binary(max_size=200), st.lists(st.integers(min_value=0, max_value=200), max_size=5))
def test_any_bytes_are_chunks_or_refused(data: bytes, cuts: list[int]) -> None:
    try:
        read_chunks(data, cuts)
    except (BadRequestError, HeadTooLargeError):
        return


@given(st.binary(max_size=200), st.lists(st.integers(min_value=0, max_value=200), max_size=5))
def test_any_bytes_are_a_head_or_refused(data: bytes, cuts: list[int]) -> None:
    try:
        read_head(data, cuts, limit=100)
    except (BadRequestError, HeadTooLargeError):
        return
