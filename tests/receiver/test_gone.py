"""A client that is gone when it is to be told why it was refused."""

from __future__ import annotations

import asyncio
import errno
from types import SimpleNamespace
from typing import Any, cast

from uvicorn.server import ServerState

from relay.receiver.connection import Connection


class GoneTransport(asyncio.Transport):
    """Its peer has reset the connection, which the loop has not told yet."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: object) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def test_a_refusal_to_a_client_that_is_gone_closes_the_connection() -> None:
    config = cast(Any, SimpleNamespace(loaded_app=None))
    connection = Connection(config, ServerState(), {})
    transport = GoneTransport()
    connection.connection_made(transport)
    connection.data_received(b"nonsense\r\n\r\n")
    assert transport.closed
    connection.connection_lost(None)
