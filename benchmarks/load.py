"""A lean HTTP client: keep-alive connections that post prepared requests, one at a time each."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Iterator

SECRET = "whsec_benchmark"
BODY_BYTES = 3000


def event_bodies(count: int, objects: int, prefix: str) -> list[bytes]:
    """Events of about 3 KB on some objects, indented as Stripe sends them."""
    filler = {f"field_{number}": "value " * 8 for number in range(35)}
    return [
        json.dumps(
            {
                "id": f"evt_{prefix}_{number}",
                "object": "event",
                "type": "customer.updated",
                "created": 1_760_000_000 + number,
                "livemode": True,
                "api_version": "2026-08-26.dahlia",
                "data": {
                    "object": {
                        "id": f"cus_{number % objects}",
                        "object": "customer",
                        "number": number,
                        **filler,
                    }
                },
            },
            indent=2,
        ).encode()
        for number in range(count)
    ]


def request(path: str, body: bytes) -> bytes:
    """A signed webhook request as bytes."""
    moment = int(time.time())
    signature = hmac.digest(SECRET.encode(), b"%d." % moment + body, hashlib.sha256).hex()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: benchmark\r\nContent-Type: application/json\r\n"
        f"Stripe-Signature: t={moment},v1={signature}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Client(asyncio.Protocol):
    """Posts from a shared iterator until it is empty; every answer must be a 200."""

    def __init__(self, requests: Iterator[bytes], done: asyncio.Future[None]) -> None:
        self._requests = requests
        self._done = done
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, blank, body = self._answer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 20"):
            self._fail(RuntimeError(f"refused: {self._answer!r}"))
            return
        self._answer = b""
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionError("the server hung up"))

    def _next(self) -> None:
        following = next(self._requests, None)
        if following is not None:
            self._transport.write(following)
            return
        if not self._done.done():
            self._done.set_result(None)
        self._transport.close()

    def _fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)


async def post_all(port: int, requests: list[bytes], connections: int) -> float:
    """Post all requests over so many connections; returns acknowledged requests per second."""
    loop = asyncio.get_running_loop()
    waiting = iter(requests)
    finished = [loop.create_future() for _ in range(connections)]
    start = time.perf_counter()
    for done in finished:
        await loop.create_connection(lambda done=done: _Client(waiting, done), "127.0.0.1", port)
    await asyncio.gather(*finished)
    return len(requests) / (time.perf_counter() - start)
