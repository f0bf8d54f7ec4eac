"""A small HTTP server beside the receiver's, for those who look after the process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import structlog
import uvicorn
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from relay.admin.dashboard import Dashboard
from relay.http_server import EmbeddedServer, listen

_log = structlog.get_logger("relay.admin")


class AdminServer:
    """Serves what looks after this process: its health and its metrics, and the dashboard."""

    def __init__(
        self, handlers: Sequence[HTTPRouteHandler], dashboard: Dashboard | None = None
    ) -> None:
        # Without logging_config=None Litestar takes over the logging of the whole process.
        self._app: ASGIApp = (
            Litestar(route_handlers=handlers, openapi_config=None, logging_config=None)
            if dashboard is None
            else dashboard.app(handlers)
        )
        self._server: EmbeddedServer | None = None
        self._serving: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, e.g. after port 0 was asked for."""
        assert self._socket is not None
        host, port = self._socket.getsockname()[:2]
        return host, port

    async def start(self, host: str, port: int) -> None:
        """Raises OSError when the address cannot be had."""
        self._socket = listen(host, port)
        config = uvicorn.Config(
            self._app, lifespan="off", log_config=None, access_log=False, server_header=False
        )
        self._server = EmbeddedServer(config)
        self._serving = await self._server.start([self._socket])
        _log.info("admin.started", host=self.address[0], port=self.address[1])

    async def stop(self) -> None:
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = True
        await self._serving
        self._server = None
