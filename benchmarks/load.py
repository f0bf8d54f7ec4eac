"""A lean HTTP client: keep-alive connections that post prepared requests, one at a time each."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import cast

SECRET = "whsec_benchmark"

_BODIES = 64
"""Different ones: enough that a compressor does not find the last of its kind in its window."""


def _template(kind: int) -> str:
    """An event of 3 KB, which lz4 makes half as large, as it does those of Stripe."""
    generated = Random(kind)  # the same in each run
    body = {
        "id": "@id",
        "object": "event",
        "type": "customer.updated",
        "created": "@created",
        "livemode": True,
        "api_version": "2026-08-26.dahlia",
        "data": {
            "object": {
                "id": "@customer",
                "object": "customer",
                "number": "@number",
                **{
                    f"field_{number}": "value " * 4 + generated.randbytes(12).hex()
                    for number in range(35)
                },
            }
        },
    }
    return (
        json.dumps(body, indent=2)
        .replace("@id", "evt_%(prefix)s_%(number)d")
        .replace('"@created"', "%(created)d")
        .replace("@customer", "cus_%(customer)d")
        .replace('"@number"', "%(number)d")
    )


def event_bodies(count: int, objects: int, prefix: str) -> list[bytes]:
    """Events of about 3 KB on some objects, indented as Stripe sends them."""
    templates = [_template(kind) for kind in range(_BODIES)]
    return [
        (
            templates[number % _BODIES]
            % {
                "prefix": prefix,
                "number": number,
                "created": 1_760_000_000 + number,
                "customer": number % objects,
            }
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
    """One connection; every answer must be a 200."""

    def __init__(
        self, answered: Callable[[_Client], None], failed: Callable[[Exception], None]
    ) -> None:
        self._answered = answered
        self._failed = failed
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, blank, body = self._answer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 20"):
            self._failed(RuntimeError(f"refused: {self._answer!r}"))
            return
        self._answer = b""
        self._answered(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._failed(error or ConnectionError("the server hung up"))


class _Connections:
    """So many clients, and the end of what they do."""

    def __init__(self, answered: Callable[[_Client], None]) -> None:
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.clients: list[_Client] = []
        self._answered = answered

    async def open(self, port: int, count: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            _, client = await loop.create_connection(
                lambda: _Client(self._answered, self._fail), "127.0.0.1", port
            )
            self.clients.append(client)

    async def close(self) -> None:
        """After the end, which may be a failure: that is raised."""
        try:
            await self.finished
        finally:
            for client in self.clients:
                client.transport.close()

    def finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self.finished.done():
            self.finished.set_exception(error)


async def post_all(port: int, requests: Iterable[bytes], connections: int) -> float:
    """Post all requests over so many connections; returns acknowledged requests per second."""
    following = iter(requests)
    answers = 0
    busy = connections

    def answered(client: _Client) -> None:
        nonlocal answers, busy
        answers += 1
        request = next(following, None)
        if request is not None:
            client.transport.write(request)
            return
        busy -= 1
        if busy == 0:
            opened.finish()

    opened = _Connections(answered)
    await opened.open(port, connections)
    start = time.perf_counter()
    for client in opened.clients:
        client.transport.write(next(following))
    await opened.close()
    return answers / (time.perf_counter() - start)


async def post_at(
    port: int, requests: Sequence[bytes], connections: int, rate: float
) -> tuple[list[float], list[float]]:
    """Post so many requests a second, however long the answers take.

    Returns, in the order of the requests, the moment at which each was due (`time.time`), and the
    seconds from then to its answer: a request that waits for a free connection waits visibly.
    """
    due = [0.0] * len(requests)
    took = [0.0] * len(requests)
    idle: deque[_Client] = deque()
    waiting: deque[int] = deque()
    sent: dict[_Client, int] = {}
    answers = 0

    def send(client: _Client, number: int) -> None:
        sent[client] = number
        client.transport.write(requests[number])

    def answered(client: _Client) -> None:
        nonlocal answers
        number = sent.pop(client)
        took[number] = time.time() - due[number]
        answers += 1
        if answers == len(requests):
            opened.finish()
        elif waiting:
            send(client, waiting.popleft())
        else:
            idle.append(client)

    opened = _Connections(answered)
    await opened.open(port, connections)
    idle.extend(opened.clients)
    start = time.time() + 0.01
    for number in range(len(requests)):
        due[number] = start + number / rate
        while (early := due[number] - time.time()) > 0:
            await asyncio.sleep(early)
        if opened.finished.done():
            break
        if idle:
            send(idle.popleft(), number)
        else:
            waiting.append(number)
    await opened.close()
    return due, took
