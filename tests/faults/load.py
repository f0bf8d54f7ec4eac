"""The honest client: posts signed events of hot and cold objects and remembers every answer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator

from relay.dev import samples
from tests.acceptance.fleet import Answer
from tests.acceptance.sender import Connection, Event, Sender, Webhook
from tests.acceptance.test_crashes import TYPES

HOT_OBJECTS = 30
_HOT_SHARE = 0.8
_PIECE = 262_144
_ANSWER_SECONDS = 10.0
"""A client does not wait for longer than that: half-open connections would keep it for ever."""


def make_events(rng: random.Random) -> Iterator[Event]:
    """Without end; four of five are of a hot object, the hottest much more often than others."""
    prefixes = list(TYPES)
    hot = [(prefixes[n % len(prefixes)], f"hot{n}") for n in range(HOT_OBJECTS)]
    weights = [1 / (1 + n / 5) for n in range(HOT_OBJECTS)]
    number = 0
    while True:
        number += 1
        if rng.random() < _HOT_SHARE:
            prefix, name = rng.choices(hot, weights)[0]
        else:
            prefix, name = rng.choice(prefixes), f"cold{number}"
        yield make_event(rng.choice(TYPES[prefix]), f"{prefix}_{name}", number)


def make_event(
    event_type: str, object_id: str, number: int, *, name: str = "", description: str = ""
) -> Event:
    """One event; `description` goes into its object."""
    sample = samples.sample(
        event_type,
        seed=number % 1000,
        event_id=f"evt_{name}{number:06}",
        object_id=object_id,
    )
    if description:
        sample.event["data"]["object"]["description"] = description
    return Event(sample.event_id, f'{{"id":"{object_id}"}}'.encode(), sample.body)


class Load(Sender):
    """Sends at a rate until it is stopped; what is under way then is still brought to its end."""

    def __init__(
        self,
        webhook: Webhook,
        ports: Callable[[], list[int]],
        rng: random.Random,
        *,
        events_per_second: float,
    ) -> None:
        super().__init__(webhook, ports, rng)
        self.webhook = webhook
        self.events_per_second = events_per_second
        self.factor = 1.0
        self._following = make_events(rng)
        self._next_at = 0.0
        self._stopping = asyncio.Event()
        self._extra: set[asyncio.Task[None]] = set()

    async def send(self, connections: int) -> None:
        """Until `stop`."""
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(self._send())
        await asyncio.gather(*self._extra)

    def stop(self) -> None:
        self._stopping.set()

    def post(self, event: Event) -> asyncio.Task[None]:
        """One more event on a connection of its own, repeated like all others."""
        task = asyncio.create_task(self._post(event))
        self._extra.add(task)
        return task

    async def _post(self, event: Event) -> None:
        connection = Connection()
        try:
            await self._deliver(event, connection)
        finally:
            connection.close()

    async def _send(self) -> None:
        connection = Connection()
        try:
            while not self._stopping.is_set():
                await self._turn()
                await self._deliver(next(self._following), connection)
        finally:
            connection.close()

    async def _turn(self) -> None:
        """Who is late does not hurry afterwards: an outage is not followed by a burst."""
        now = time.monotonic()
        self._next_at = max(self._next_at, now - 0.1) + 1 / (self.events_per_second * self.factor)
        await asyncio.sleep(max(self._next_at - now, 0))

    async def _try(self, event: Event, connection: Connection) -> Answer | None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await super()._try(event, connection)
        except TimeoutError:
            self.answers["no answer"] += 1
            connection.close()
            return None


class _Answered(asyncio.Protocol):
    """Keeps what was answered, also when the connection was reset in the middle of the request."""

    def __init__(self) -> None:
        self.received = b""
        self.has_answer = asyncio.Event()
        self.takes_more = asyncio.Event()
        self.takes_more.set()

    def pause_writing(self) -> None:
        self.takes_more.clear()

    def resume_writing(self) -> None:
        self.takes_more.set()

    def data_received(self, data: bytes) -> None:
        self.received += data
        if b"\r\n\r\n" in self.received:
            self.has_answer.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.has_answer.set()
        self.takes_more.set()


async def upload(port: int, request: bytes, *, seconds: float) -> int:
    """One request, once; the status, or 0 when there was none."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            transport, answered = await loop.create_connection(_Answered, "127.0.0.1", port)
            try:
                # A piece at a time: all of it at once would be copied for each of the uploads.
                for begin in range(0, len(request), _PIECE):
                    await answered.takes_more.wait()
                    if answered.has_answer.is_set():
                        break
                    transport.write(request[begin : begin + _PIECE])
                await answered.has_answer.wait()
            finally:
                transport.abort()
    except (OSError, TimeoutError):
        return 0
    status = answered.received.split(b" ")[1:2]
    return int(status[0]) if status else 0
