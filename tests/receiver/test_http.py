"""What a connection may do, on raw sockets: sizes, times, lies and manners."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from relay.receiver import Limits
from tests.receiver.client import Client, exchange
from tests.receiver.serving import Serving, SourceUnderTest, event, request

LIMIT = 65_536
LIVE = b"GET /livez HTTP/1.1\r\n\r\n"


def is_alive(serving: Serving) -> bool:
    return exchange(serving.port, LIVE).status == 200


# ---- the size of a head


def head_of(size: int, *, in_target: bool = False, lines: int = 1) -> bytes:
    """A GET whose line and headers are exactly `size` bytes, blank line included."""
    if in_target:
        return b"GET /livez?" + b"a" * (size - 24) + b" HTTP/1.1\r\n\r\n"
    start = b"GET /livez HTTP/1.1\r\n"
    padding = size - len(start) - 2
    share = padding // lines
    sizes = [share] * (lines - 1) + [padding - share * (lines - 1)]
    return start + b"".join(b"x: " + b"a" * (n - 5) + b"\r\n" for n in sizes) + b"\r\n"


@pytest.mark.parametrize(("in_target", "lines"), [(False, 1), (False, 700), (True, 1)])
def test_64_kib_of_headers_pass_and_one_byte_more_does_not(
    serving: Serving, in_target: bool, lines: int
) -> None:
    fits = head_of(LIMIT, in_target=in_target, lines=lines)
    assert len(fits) == LIMIT
    assert exchange(serving.port, fits).status == 200
    answer = exchange(serving.port, head_of(LIMIT + 1, in_target=in_target, lines=lines))
    assert (answer.status, answer.error) == (431, "headers_too_large")
    assert answer.closes


def test_the_size_is_the_same_behind_another_request(
    serving: Serving, source: SourceUnderTest
) -> None:
    body = event("evt_1")
    chunked = request(source, b"", "content-length: ", "transfer-encoding: chunked").replace(
        source.sign(b"").encode(), source.sign(body).encode()
    ) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    for first in (LIVE, request(source, body), chunked):
        with Client(serving.port) as client:
            client.send(first + head_of(LIMIT) + head_of(LIMIT + 1))
            statuses = [client.read_answer().status for _ in range(3)]
            assert statuses == [200, 200, 431]


def test_headers_that_never_end_are_cut_off_at_the_limit(serving: Serving) -> None:
    with Client(serving.port) as client:
        client.send(b"GET / HTTP/1.1\r\nx: " + b"a" * (LIMIT * 2))
        assert client.read_answer().status == 431
    with Client(serving.port) as client:
        client.send(b"GET / HTTP/1.1\r\nx: ")
        for _ in range(LIMIT // 1024):
            client.send(b"a" * 1024)
        assert client.read_answer().status == 431


def test_headers_too_large_come_before_a_wrong_key(serving: Serving) -> None:
    raw = b"POST /webhooks/x?api_key=y HTTP/1.1\r\nx: " + b"a" * LIMIT + b"\r\n\r\n"
    assert exchange(serving.port, raw).status == 431


# ---- time


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\n\r\n"])
def test_slow_headers_end_the_connection(serve: Callable[..., Serving], sent: bytes) -> None:
    serving = serve(limits=Limits(head_seconds=0.3))
    with Client(serving.port) as client:
        client.send(sent)
        assert client.is_closed()


def test_slow_headers_of_a_second_request_end_the_connection(
    serve: Callable[..., Serving],
) -> None:
    serving = serve(limits=Limits(head_seconds=0.3))
    with Client(serving.port) as client:
        client.send(LIVE + b"GET /")
        assert client.read_answer().status == 200
        assert client.is_closed()


def test_an_idle_connection_is_closed(serve: Callable[..., Serving]) -> None:
    serving = serve(limits=Limits(idle_seconds=0.3))
    with Client(serving.port) as client:
        client.send(LIVE)
        assert not client.read_answer().closes
        assert client.is_closed()


@pytest.mark.parametrize("coding", ["content-length: 100", "transfer-encoding: chunked"])
def test_a_slow_body_is_answered_408(serve: Callable[..., Serving], coding: str) -> None:
    serving = serve(limits=Limits(body_seconds=0.3))
    source = serving.add_source()
    with Client(serving.port) as client:
        client.send(f"POST {source.target} HTTP/1.1\r\n{coding}\r\n\r\n1".encode())
        answer = client.read_answer()
        assert (answer.status, answer.error) == (408, "body_timeout")
        assert answer.closes
        assert client.is_closed()
    assert is_alive(serving)


def test_a_whole_request_is_not_touched_by_the_limit_of_its_parts(
    serve: Callable[..., Serving],
) -> None:
    """The time-outs are over long before the connection goes idle: none may strike late."""
    serving = serve(limits=Limits(head_seconds=0.2, body_seconds=0.2, idle_seconds=0.8))
    source = serving.add_source()
    with Client(serving.port) as client:
        for number in range(3):
            whole = request(source, event(f"evt_{number}"))
            for piece in (whole[:30], whole[30:-10], whole[-10:]):
                client.send(piece)
            assert client.read_answer().status == 200
        assert client.is_closed()
    assert serving.receiver.counters.answers.total() == 3


# ---- lies about the body


@pytest.mark.parametrize(
    "headers",
    [
        "content-length: -1",
        "content-length: abc",
        "content-length: 5\r\ncontent-length: 5",
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: identity",
    ],
)
def test_unclear_lengths_are_refused(
    serving: Serving, source: SourceUnderTest, headers: str
) -> None:
    raw = f"POST {source.target} HTTP/1.1\r\n{headers}\r\n\r\nhello".encode()
    answer = exchange(serving.port, raw)
    assert (answer.status, answer.error) == (400, "bad_request")
    assert answer.closes


def test_a_length_that_is_too_long_waits_and_one_too_short_is_another_request(
    serving: Serving, source: SourceUnderTest
) -> None:
    body = event("evt_1")
    with Client(serving.port) as client:
        client.send(request(source, body, f"content-length: {len(body) + 5}"))
        client.half_close()
        assert client.read_answer().status == 400
    with Client(serving.port) as client:
        client.send(request(source, body, f"content-length: {len(body) - 5}"))
        assert client.read_answer().error == "signature_wrong"
        assert client.read_answer().error == "bad_request"
        assert client.is_closed()
    assert serving.fetch("SELECT * FROM relay.inbox") == []


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"-5\r\nhello\r\n", b"5\r\nhello!", b"5hello"])
def test_broken_chunks_are_answered_400(
    serving: Serving, source: SourceUnderTest, chunks: bytes
) -> None:
    head = f"POST {source.target} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    with Client(serving.port) as client:
        client.send(head.encode() + b"3\r\nabc\r\n")
        client.send(chunks + b"\r\n\r\n")
        answer = client.read_answer()
        assert (answer.status, answer.error) == (400, "bad_request")
        assert client.is_closed()
    assert is_alive(serving)


def test_chunks_that_never_end_meet_the_limit(serve: Callable[..., Serving]) -> None:
    serving = serve(max_body_bytes=1000)
    source = serving.add_source()
    with Client(serving.port) as client:
        client.send(f"POST {source.target} HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        for _ in range(101):
            client.send(b"a\r\n0123456789\r\n")
        answer = client.read_answer()
        assert (answer.status, answer.error) == (413, "body_too_large")
        assert answer.closes


# ---- manners


def test_expect_100_continue(serving: Serving, source: SourceUnderTest) -> None:
    head, _, body = request(source, event("evt_1"), "expect: 100-continue").partition(b"\r\n\r\n")
    with Client(serving.port) as client:
        client.send(head + b"\r\n\r\n")
        assert client.read_answer().status == 100
        client.send(body)
        assert client.read_answer().status == 200


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        (["x: y"], 401),
        (["content-encoding: gzip"], 415),
        (["content-length: 99999999999"], 413),
    ],
)
def test_no_100_before_a_refusal(
    serving: Serving, source: SourceUnderTest, changes: list[str], status: int
) -> None:
    target = source.target + ("x" if status == 401 else "")
    raw = request(source, event("e"), "expect: 100-continue", *changes, target=target)
    with Client(serving.port) as client:
        client.send(raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        assert client.read_answer().status == status
        assert client.is_closed()


def test_no_100_for_who_does_not_wait(serving: Serving, source: SourceUnderTest) -> None:
    answer = exchange(serving.port, request(source, event("evt_1"), "expect: 100-continue"))
    assert answer.status == 200


def test_pipelined_requests_are_answered_in_order(
    serving: Serving, source: SourceUnderTest
) -> None:
    raw = b"".join(
        request(source, event(f"evt_{number // 2}")) + b"\r\n" + LIVE for number in range(200)
    )
    with Client(serving.port) as client:
        client.send(raw)
        for number in range(200):
            answer = client.read_answer()
            assert answer.status == 200
            expected = {"received": True} | ({"duplicate": True} if number % 2 else {})
            assert answer.json == expected
            assert client.read_answer().json == {"alive": True}


def test_pipelined_requests_behind_a_refusal_are_dropped(
    serving: Serving, source: SourceUnderTest
) -> None:
    with Client(serving.port) as client:
        client.send(request(source, event("evt_1"), target="/webhooks/x?api_key=y") + LIVE)
        assert client.read_answer().status == 401
        assert client.is_closed()


def test_garbage_behind_a_request_does_not_touch_its_answer(
    serving: Serving, source: SourceUnderTest
) -> None:
    with Client(serving.port) as client:
        client.send(request(source, event("evt_1")) + b"\x16\x03\x01 garbage\r\n\r\n")
        assert client.read_answer().status == 200
        assert client.read_answer().status == 400
        assert client.is_closed()


def test_half_closed_clients_get_their_answers(serving: Serving, source: SourceUnderTest) -> None:
    with Client(serving.port) as client:
        client.send(request(source, event("evt_1")) + LIVE)
        client.half_close()
        assert client.read_answer().status == 200
        assert client.read_answer().status == 200
        assert client.is_closed()


def test_connection_close_and_http_1_0(serving: Serving, source: SourceUnderTest) -> None:
    for raw in (
        request(source, event("evt_1"), "connection: close"),
        request(source, event("evt_2")).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ):
        with Client(serving.port) as client:
            client.send(raw)
            answer = client.read_answer()
            assert answer.status == 200
            assert answer.closes
            assert client.is_closed()


def test_a_client_that_never_reads_is_not_waited_for(serve: Callable[..., Serving]) -> None:
    """Its requests are not looked at once its answers pile up, and in the end it is cut off."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    serving = serve(limits=Limits(idle_seconds=0.3, linger_seconds=0.3), listener=listener)
    with Client(serving.port) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            client.send_until_cut_off(LIVE * 1000)
    assert is_alive(serving)


def test_a_refused_upload_can_read_why(serving: Serving, source: SourceUnderTest) -> None:
    """It sends everything before it reads, as most HTTP clients do."""
    megabytes = 50
    for target, extra, status in (
        (source.target + "x", "x: y", 401),
        (source.target, "content-encoding: gzip", 415),
        (source.target, f"content-length: {megabytes * 2**20 + 1}", 413),
    ):
        head = request(source, b"", f"content-length: {megabytes * 2**20}", extra, target=target)
        with Client(serving.port) as client:
            client.send(head)
            for _ in range(megabytes):
                client.send(bytes(2**20))
            assert client.read_answer().status == status


def test_what_is_discarded_after_an_answer_is_bounded(serve: Callable[..., Serving]) -> None:
    serving = serve(limits=Limits(linger_bytes=1_000_000, linger_seconds=60.0))
    with Client(serving.port) as client:
        client.send(b"POST /webhooks/x HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            client.send_until_cut_off(bytes(2**20))


def test_a_refused_client_that_says_nothing_more_is_cut_off(
    serve: Callable[..., Serving],
) -> None:
    serving = serve(limits=Limits(linger_seconds=0.3))
    with Client(serving.port) as client:
        client.send(b"POST /webhooks/x HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n")
        assert client.read_answer().status == 401
        assert client.is_closed()
        # Closed for good, not only its half: now what is sent is answered with a reset.
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            client.send_until_cut_off(bytes(2**16))
