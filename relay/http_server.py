"""uvicorn inside a process that it does not own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

_POLL_SECONDS = 0.01


def listen(host: str, port: int, *, backlog: int = 128) -> socket.socket:
    """A listening socket; an IPv6 one also takes IPv4. Raises OSError."""
    if ":" not in host:
        return socket.create_server((host, port), backlog=backlog)
    return socket.create_server(
        (host, port),
        family=socket.AF_INET6,
        backlog=backlog,
        dualstack_ipv6=socket.has_dualstack_ipv6(),
    )


class EmbeddedServer(uvicorn.Server):
    """uvicorn's accept loop without its signal handlers: signals belong to the supervisor."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def start(self, sockets: list[socket.socket]) -> asyncio.Task[None]:
        """Serve in a task, which is returned once connections are accepted."""
        serving = asyncio.create_task(self.serve(sockets=sockets), name="http-server")
        while not self.started:
            if serving.done():
                serving.result()
            await asyncio.sleep(_POLL_SECONDS)
        return serving
