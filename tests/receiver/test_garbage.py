"""Any bytes to the socket: an answer that blames the client, or none; never a bug of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.receiver import Limits
from tests.receiver.client import Client, exchange
from tests.receiver.serving import Serving, SourceUnderTest, event, request

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
COMMON = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def sourced(database_url: str) -> Iterator[tuple[Serving, SourceUnderTest]]:
    serving = Serving(database_url, limits=Limits(body_seconds=0.2, head_seconds=0.2))
    yield serving, serving.add_source()
    serving.stop()


def statuses_for(serving: Serving, data: bytes, cut: int) -> list[int]:
    """Every status of the answers to `data`, sent in two parts."""
    with Client(serving.port) as client:
        try:
            client.send(data[:cut])
            client.send(data[cut:])
            client.half_close()
        except OSError:
            pass
        return [int(status) for status in STATUS.findall(client.read_to_end())]


def check(serving: Serving, statuses: list[int]) -> None:
    assert all(status < 500 for status in statuses), statuses
    assert exchange(serving.port, b"GET /livez HTTP/1.1\r\n\r\n").status == 200
    assert serving.receiver.counters.crashes == 0


PIECES = st.sampled_from(
    [
        b"POST ",
        b"GET ",
        b"/webhooks/src_x",
        b"/livez",
        b"/readyz",
        b"?api_key=k",
        b" HTTP/1.1",
        b" HTTP/1.0",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"\xff",
        b":",
        b" ",
        b"Host: a",
        b"Content-Length: 5",
        b"Content-Length: -1",
        b"Transfer-Encoding: chunked",
        b"0",
        b"5\r\n",
        b"hello",
        b"Expect: 100-continue",
        b"Connection: close",
        b"Connection: upgrade",
        b"Upgrade: websocket",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"%00",
        b"http://a:b@[::1]:99999/..//\\",
        b"#",
        b"CONNECT a:1",
        b"Sec-WebSocket-Key: a",
    ]
)


@COMMON
@given(
    data=st.one_of(st.binary(max_size=400), st.lists(PIECES, max_size=25).map(b"".join)),
    cut=st.integers(min_value=0, max_value=400),
)
def test_any_bytes(sourced: tuple[Serving, SourceUnderTest], data: bytes, cut: int) -> None:
    serving, _ = sourced
    check(serving, statuses_for(serving, data, cut))


@COMMON
@given(
    at=st.integers(min_value=0, max_value=10_000),
    gone=st.integers(min_value=0, max_value=30),
    noise=st.binary(max_size=20),
    cut=st.integers(min_value=0, max_value=600),
)
def test_a_good_request_with_a_hole(
    sourced: tuple[Serving, SourceUnderTest], at: int, gone: int, noise: bytes, cut: int
) -> None:
    serving, source = sourced
    good = request(source, event("evt_1"))
    at %= len(good)
    check(serving, statuses_for(serving, good[:at] + noise + good[at + gone :], cut))


@COMMON
@given(
    path=st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    method=st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"TRACE", b"PROPFIND"]),
)
def test_any_path(sourced: tuple[Serving, SourceUnderTest], path: bytes, method: bytes) -> None:
    """Percent-encoded, so that it reaches the router."""
    serving, _ = sourced
    target = b"/" + b"".join(
        b"%%%02x" % byte if byte > 127 or byte < 48 else bytes([byte]) for byte in path
    )
    check(serving, statuses_for(serving, method + b" " + target + b" HTTP/1.1\r\n\r\n", 5))


FIELDS = ["id", "type", "data", "object", "account", "created", "livemode", "customer"]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=8)
    ),
    max_leaves=25,
).map(lambda value: json.dumps(value).encode())


@COMMON
@given(body=st.binary(max_size=300) | JSON)
def test_any_signed_body_is_stored(sourced: tuple[Serving, SourceUnderTest], body: bytes) -> None:
    """Whoever holds the secret is Stripe: a 4xx or 5xx would disable the endpoint."""
    serving, source = sourced
    answer = serving.post(source, body)
    assert answer.status == 200
    [stored] = serving.fetch(
        "SELECT count(*) FILTER (WHERE body = $1) AS found FROM relay.inbox", body
    )
    assert stored["found"] == 1 or answer.json == {"received": True, "duplicate": True}
