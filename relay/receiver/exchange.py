"""One request and its answer, as an ASGI application sees them."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from litestar.types import HTTPReceiveMessage, Message, Scope

    from relay.receiver.framing import Head

STATUS_LINE: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_CONTINUE: Final = STATUS_LINE[100] + b"\r\n"


class Wire(Protocol):
    """What an exchange needs from the connection that carries it."""

    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def want_body(self) -> None: ...
    def common_headers(self) -> bytes: ...
    def finish(self, *, keep_alive: bool) -> None: ...


class Exchange:
    """Carries one body in and one answer out.

    The answer closes the connection when the application says so, when it comes before the body
    was read, or when the request asks for it. After `abandon` the application sees a disconnect
    and what it still sends is dropped.
    """

    __slots__ = (
        "_delivered",
        "_expects_continue",
        "_gone",
        "_is_head_request",
        "_keep_alive",
        "_more_body",
        "_pieces",
        "_start",
        "_waiter",
        "_wire",
        "answered",
        "buffered",
        "scope",
        "started",
    )

    def __init__(self, wire: Wire, head: Head, scope: Scope, *, more_body: bool) -> None:
        self.scope = scope
        self.started = False  # something of the answer was written
        self.answered = False  # all of it was
        self.buffered = 0  # bytes of the body that the application has not taken yet
        self._wire = wire
        self._pieces: list[bytes] = []
        self._more_body = more_body
        self._delivered = False  # the application has taken the last part of the body
        self._expects_continue = head.expects_continue
        self._keep_alive = head.keep_alive
        self._is_head_request = head.method == "HEAD"
        self._start: Any = None
        self._gone = False
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, piece: bytes, *, more: bool) -> None:
        """Body bytes from the connection; `more` tells whether others will follow."""
        self._expects_continue = False  # it did not wait for our word
        self._more_body = more
        if piece:
            self._pieces.append(piece)
            self.buffered += len(piece)
        self._wake()

    def abandon(self) -> None:
        """The client is gone, or the rest of its request can never be understood."""
        self._gone = True
        self._pieces.clear()
        self._wake()

    def close_after(self) -> None:
        """Let this be the last exchange of the connection."""
        self._keep_alive = False

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> HTTPReceiveMessage:
        """ASGI: the next part of the body, or `http.disconnect`."""
        while not self._gone and not self.answered:
            if not self._delivered and (self._pieces or not self._more_body):
                body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
                self._pieces.clear()
                self.buffered = 0
                self._delivered = not self._more_body
                return {"type": "http.request", "body": body, "more_body": self._more_body}
            if self._expects_continue:
                self._expects_continue = False
                self._wire.write(_CONTINUE)
            self._wire.want_body()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI: the start of the answer, then its body in one or more parts."""
        if self._gone or self.answered:
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        if message["type"] != "http.response.body" or self._start is None:
            raise RuntimeError(f"unexpected ASGI message {message['type']}")
        body = b"" if self._is_head_request else message.get("body", b"")
        more = message.get("more_body", False)
        if not self.started:
            self.started = True
            body = self._head_of_answer() + body
        self._wire.write(body)
        if more:
            await self._wire.drain()
            return
        self.answered = True
        self._wake()
        self._wire.finish(keep_alive=self._keep_alive)

    def _head_of_answer(self) -> bytes:
        lines = [STATUS_LINE[self._start["status"]], self._wire.common_headers()]
        sized = self._is_head_request
        for name, value in self._start.get("headers", ()):
            if name == b"connection":
                self._keep_alive = self._keep_alive and value != b"close"
                continue
            sized = sized or name == b"content-length"
            lines += (name, b": ", value, b"\r\n")
        unread = not self._delivered and (self._more_body or bool(self._pieces))
        # An answer without a length ends where the connection does.
        if unread or not sized or not self._keep_alive:
            self._keep_alive = False
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)
