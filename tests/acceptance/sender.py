"""Stripe's side: signed requests over keep-alive connections, repeated until they are answered."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import msgspec

from tests.acceptance.checker import Posted
from tests.acceptance.fleet import Answer, read_answer

# So that a receiver that was started later gets its share.
REQUESTS_PER_CONNECTION = 50


class Event(msgspec.Struct, frozen=True):
    """What is to be sent, and the Kafka key that it must get."""

    event_id: str
    key: bytes
    body: bytes


class Webhook(msgspec.Struct, frozen=True):
    """Where a source receives and how its requests are signed."""

    path: str
    secret: str

    def request(self, body: bytes) -> bytes:
        """The bytes of one request, signed now."""
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: relay.example\r\n"
            f"user-agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\n"
            f"content-type: application/json; charset=utf-8\r\ncontent-length: {len(body)}\r\n"
            f"stripe-signature: {sign(body, self.secret)}\r\n\r\n"
        )
        return head.encode() + body


def sign(body: bytes, secret: str, at: float | None = None) -> str:
    """The value of `Stripe-Signature`, as Stripe's documentation describes it."""
    moment = int(time.time() if at is None else at)
    digest = hmac.new(secret.encode(), b"%d." % moment + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


async def post(port: int, webhook: Webhook, body: bytes) -> Answer:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(webhook.request(body))
        return await read_answer(reader)
    finally:
        writer.close()


class Sender:
    """Posts events from many connections at once and remembers when each was under way.

    ``ports`` tells where receivers listen at the moment. ``posted`` grows with every event that
    was answered 2xx; ``answers`` counts what was answered, and connections that broke.
    """

    def __init__(self, webhook: Webhook, ports: Callable[[], list[int]], rng: random.Random):
        self._webhook = webhook
        self._ports = ports
        self._rng = rng
        self.posted: list[Posted] = []
        self.answers: Counter[str] = Counter()

    async def run(self, events: Iterable[Event], connections: int, deadline: float = 300.0) -> None:
        """Send them all; each connection takes the next one when its last one is done.

        Raises TimeoutError when they are not all answered 2xx after ``deadline`` seconds.
        """
        following = iter(events)
        try:
            async with asyncio.timeout(deadline), asyncio.TaskGroup() as group:
                for _ in range(connections):
                    group.create_task(self._work(following))
        except TimeoutError:
            raise TimeoutError(f"not all answered 2xx in {deadline} s: {self.answers}") from None

    async def _work(self, following: Iterator[Event]) -> None:
        connection = Connection()
        try:
            for event in following:
                await self._deliver(event, connection)
        finally:
            connection.close()

    async def _deliver(self, event: Event, connection: Connection) -> None:
        began = time.monotonic()
        while True:
            answer = await self._try(event, connection)
            if answer is not None and answer.status == 200:
                break
            # Stripe waits for minutes or hours; all that counts here is not to hammer.
            await asyncio.sleep(0.05)
        answered = time.monotonic()
        digest = hashlib.sha256(event.body).digest()
        self.answers["duplicate" if answer.json.get("duplicate") else "stored"] += 1
        self.posted.append(Posted(event.event_id, event.key, digest, began, answered))

    async def _try(self, event: Event, connection: Connection) -> Answer | None:
        try:
            if not connection.is_open:
                await connection.open(self._rng.choice(self._ports()))
            answer = await connection.exchange(self._webhook.request(event.body))
        except (OSError, EOFError, IndexError):
            # Refused, reset, ended in the middle of it, or no receiver is up: nobody knows
            # whether the event was stored.
            self.answers["connection lost"] += 1
            connection.close()
            return None
        if answer.status != 200:
            self.answers[f"status {answer.status}"] += 1
            connection.close()
        return answer


class Connection:
    """One keep-alive connection at a time."""

    def __init__(self) -> None:
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._left = 0

    @property
    def is_open(self) -> bool:
        return self._streams is not None

    async def open(self, port: int) -> None:
        self._streams = await asyncio.open_connection("127.0.0.1", port)
        self._left = REQUESTS_PER_CONNECTION

    async def exchange(self, request: bytes) -> Answer:
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(request)
        answer = await read_answer(reader)
        self._left -= 1
        if self._left == 0:
            self.close()
        return answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
