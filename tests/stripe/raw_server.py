"""A server that answers the same to everything, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import Self


class RawServer:
    """`body` None never answers; `drip_seconds` sends it byte by byte."""

    def __init__(
        self,
        body: bytes | None,
        *,
        status: bytes = b"200 OK",
        drip_seconds: float = 0.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.heads: list[bytes] = []
        self.connections = 0
        self.asked = asyncio.Event()
        """There was a request."""
        self.url = ""
        self._body = body
        self._status = status
        self._drip_seconds = drip_seconds
        self._tls = tls
        self._handlers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        scheme = "http" if self._tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._handlers.add(asyncio.create_task(self._handle(reader, writer)))

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                self.asked.set()
                if self._body is None:
                    await asyncio.Event().wait()
                    continue
                head = b"HTTP/1.1 %b\r\nDate: Wed, 26 Aug 2026 10:00:07 GMT\r\nContent-Length: %d"
                writer.write(head % (self._status, len(self._body)) + b"\r\n\r\n")
                await self._write(writer, self._body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _write(self, writer: asyncio.StreamWriter, body: bytes) -> None:
        if not self._drip_seconds:
            writer.write(body)
            return
        for byte in body:
            writer.write(bytes([byte]))
            await asyncio.sleep(self._drip_seconds)
