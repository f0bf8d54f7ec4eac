"""The receiver as the composition root sees it: started, ready, drained, stopped."""

from __future__ import annotations

import asyncio
import socket
from typing import Final, cast

import structlog
import uvicorn

from relay.health import Health
from relay.http_server import EmbeddedServer, listen
from relay.receiver.addresses import SourceAddresses
from relay.receiver.app import ReceiverApp
from relay.receiver.budget import Budget
from relay.receiver.commit import CannotStoreError, Committing, GroupCommit
from relay.receiver.connection import Connection, Limits
from relay.receiver.counters import Counters
from relay.receiver.refused import RefusedSamples
from relay.receiver.route import WebhookRoute
from relay.receiver.sources import Sources
from relay.store.engine import Database
from relay.store.sealing import Seal

log: Final = structlog.get_logger("relay.receiver")

_BACKLOG: Final = 2048


class Receiver:
    """Takes webhooks in over HTTP and stores them.

    Uses up to five connections of `database`: two for storing, and now and then one each for the
    sources, the samples of refused requests and the health checks. Nothing has to be up when it
    starts: without a database it answers 503.
    """

    def __init__(
        self,
        database: Database,
        seal: Seal,
        *,
        health: Health | None = None,
        max_body_bytes: int = 52_428_800,
        bytes_in_flight: int = 268_435_456,
        limits: Limits | None = None,
        committing: Committing | None = None,
        addresses: SourceAddresses | None = None,
    ) -> None:
        self._addresses = addresses or SourceAddresses()
        self.counters = Counters()
        self.health = health or Health(database)
        self.budget = Budget(bytes_in_flight, max_body_bytes)
        self._sources = Sources(database, seal)
        self._commit = GroupCommit(database, self.counters, committing)
        self._refused = RefusedSamples(database, self.counters)
        self._route = WebhookRoute(
            self._sources,
            self._commit,
            self._refused,
            self.budget,
            self.counters,
            addresses=self._addresses,
            max_body_bytes=max_body_bytes,
        )
        self.app = ReceiverApp(self._route, self.health)
        self._limits = limits or Limits()
        self._server: EmbeddedServer | None = None
        self._serving: asyncio.Task[None] | None = None
        self.addresses: list[tuple[str, int]] = []
        """Where it listens, e.g. after port 0 was asked for."""

    @property
    def queued(self) -> int:
        """Rows that wait to be stored now."""
        return self._commit.queued

    @property
    def requests_in_flight(self) -> int:
        """Requests that are being read, stored or answered now, health checks included."""
        return 0 if self._server is None else len(self._server.server_state.tasks)

    async def start(
        self, host: str = "127.0.0.1", port: int = 8080, *, sock: socket.socket | None = None
    ) -> None:
        """Listens on the address, or on `sock`, which is bound already (SO_REUSEPORT).

        Raises OSError when the address cannot be had.
        """
        listener = sock or listen(host, port, backlog=_BACKLOG)
        self.addresses = [listener.getsockname()[:2]]
        config = uvicorn.Config(
            self.app,
            http=Connection.configured(self._limits, self.counters),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,  # its lines hold the query string, and so the key
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
        )
        self._commit.start()
        self._server = EmbeddedServer(config)
        self._serving = await self._server.start([listener])
        for address in self.addresses:
            log.info("receiver.started", host=address[0], port=address[1])

    async def run_once(self) -> int:
        """Renews the sources, so that the first request after a pause need not wait for it.

        Returns 0; the requests are the work, and they come by themselves.
        """
        self._addresses.refresh()
        try:
            await self._sources.renew()
        except CannotStoreError:
            log.debug("receiver.sources_stale")
        return 0

    async def serve(self, host: str, port: int) -> None:
        """Starts and runs until it is stopped; when it is cancelled it stops itself."""
        await self.start(host, port)
        assert self._serving is not None
        try:
            await asyncio.shield(self._serving)
        finally:
            await self.stop()

    async def stop(self, seconds: float = 25.0) -> None:
        """Drains: not ready, no new connections, then what is in hand is answered and stored.

        After three quarters of `seconds` the requests that are still being sent are cut off.
        """
        self.health.draining = True
        if self._server is None or self._serving is None:
            return
        server, serving, self._server, self._serving = self._server, self._serving, None, None
        ends = asyncio.get_running_loop().time() + seconds
        server.should_exit = True
        await asyncio.wait([serving], timeout=seconds * 0.75)
        connections = cast("set[Connection]", server.server_state.connections)
        for connection in list(connections):
            connection.cut_off_unless_answering()
        await self._commit.stop(seconds * 0.15)
        await asyncio.wait([serving], timeout=max(0.1, ends - asyncio.get_running_loop().time()))
        for connection in list(connections):
            connection.abort()
        await serving
        await self._refused.flush()
        self._route.close()
        log.info("receiver.stopped")
