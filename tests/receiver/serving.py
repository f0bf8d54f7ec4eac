"""A receiver on the event loop of production (uvloop), in a thread beside the test."""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg
import msgspec
import uvloop

from relay.core.signature import sign
from relay.core.source import SourceConfig
from relay.receiver import Receiver
from relay.store import sources
from relay.store.engine import Database
from relay.store.sealing import Seal, new_key
from tests.receiver.client import SECONDS, Answer, exchange
from tests.support.logins import as_login


class SourceUnderTest(msgspec.Struct, frozen=True):
    source_id: int
    public_id: str
    key: str
    secret: str

    @property
    def target(self) -> str:
        return f"/webhooks/{self.public_id}?api_key={self.key}"

    def sign(self, body: bytes, *, age: int = 0) -> str:
        return sign(body, self.secret, int(time.time()) - age)


class Serving:
    """Starts at once; `stop` ends it, and finds out whether a request ran into a bug."""

    def __init__(
        self, database_url: str, *, listener: socket.socket | None = None, **options: Any
    ) -> None:
        self.database_url = database_url
        self._listener = listener
        self._options = options
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="receiver")
        self._thread.start()
        self._seal = Seal([new_key()])
        self._stopped = False
        self.run(self._start())

    @property
    def port(self) -> int:
        return self._port

    async def _start(self) -> None:
        self.database = Database(self.database_url)
        # The receiver has a login that may do no more than it must.
        self._own = Database(as_login(self.database_url, "receiver"))
        self.receiver = Receiver(self._own, self._seal, **self._options)
        await self.receiver.start("127.0.0.1", 0, sock=self._listener)
        self._port = self.receiver.addresses[0][1]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs on the receiver's loop and waits."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS + 20)

    def add_source(self, name: str = "shop", *, secret: str | None = None, **settings: Any) -> Any:
        """A source with one signing secret (none under `insecure`), known to the receiver."""
        secret = secret if secret is not None else "whsec_" + secrets.token_hex(16)
        return self.run(self._add_source(name, secret, settings))

    async def _add_source(self, name: str, secret: str, settings: dict[str, Any]) -> Any:
        config = SourceConfig(source_id=0, public_id="", name=name, **settings)
        sealed = [] if config.insecure else [self._seal.seal(secret.encode())]
        async with self.database.begin() as connection:
            source, key = await sources.create(
                connection, config, sealed_secrets=sealed, sealed_stripe_key=None
            )
        await self.receiver.run_once()
        return SourceUnderTest(source.config.source_id, source.config.public_id, key, secret)

    def fetch(self, query: str, *arguments: object) -> list[Any]:
        return self.run(self._fetch(query, arguments))

    async def _fetch(self, query: str, arguments: tuple[object, ...]) -> list[Any]:
        # On a connection of its own: since the last look the server may have been restarted.
        pg = await asyncpg.connect(self.database_url)
        try:
            return await pg.fetch(query, *arguments)
        finally:
            await pg.close()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Until the receiver's own state says so; fails when it never does."""
        self.run(self._wait_until(condition))

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = self._loop.time() + SECONDS
        while not condition():
            assert self._loop.time() < deadline, "it did not come to that"
            await asyncio.sleep(0.005)

    def post(self, source: SourceUnderTest, body: bytes, *headers: str) -> Answer:
        return exchange(self.port, request(source, body, *headers))

    def stop(self, seconds: float = 5.0) -> None:
        if self._stopped:
            return
        self._stopped = True
        try:
            self.run(self.receiver.stop(seconds))
            self.run(self._own.close())
            self.run(self.database.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(SECONDS)
            self._loop.close()
        assert self.receiver.counters.crashes == 0
        assert self.receiver.counters.connections == 0
        assert self.receiver.budget.in_flight == 0


def event(event_id: str, **changes: Any) -> bytes:
    """A small snapshot event."""
    content = {
        "id": event_id,
        "object": "event",
        "type": "customer.updated",
        "created": 1_700_000_000,
        "livemode": False,
        "api_version": "2024-06-20",
        "data": {"object": {"id": "cus_1", "object": "customer"}},
    }
    return msgspec.json.encode(content | changes)


def request(
    source: SourceUnderTest, body: bytes, *headers: str, target: str | None = None
) -> bytes:
    """A signed POST with its length; a header in `headers` replaces the usual one."""
    usual = {
        "host": "relay.test",
        "content-length": str(len(body)),
        "stripe-signature": source.sign(body),
    }
    for line in headers:
        name, _, value = line.partition(": ")
        usual[name] = value
    lines = [f"{name}: {value}" for name, value in usual.items() if value]
    head = "\r\n".join([f"POST {target or source.target} HTTP/1.1", *lines, "", ""])
    return head.encode("latin-1") + body
