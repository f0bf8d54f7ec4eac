"""The HTTP/1.1 server side of one TCP connection, with every limit that a public port needs.

uvicorn accepts the connections and hands each to one of these. Its own protocol class enforces no
limit on headers or on time, reads ahead of the request in hand, answers garbage in the middle of
another answer, and closes without letting a client that is still sending read why.
"""

from __future__ import annotations

import asyncio
import enum
import traceback
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast
from urllib.parse import unquote_to_bytes

import httptools
import msgspec
import structlog

from relay.receiver.counters import Counters
from relay.receiver.deadline import Deadline
from relay.receiver.exchange import STATUS_LINE, Exchange
from relay.receiver.framing import BadRequestError, ChunkedBody, Head, HeadTooLargeError

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Scope
    from uvicorn import Config
    from uvicorn.server import ServerState

log: Final = structlog.get_logger("relay.receiver")

_HIGH_WATER: Final = 262_144
"""Bytes of a body that may wait for the application before the connection stops reading."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one connection may cost; times in seconds."""

    head_bytes: int = 65_536
    """The request line and all headers, blank line included."""
    head_seconds: float = 30.0
    body_seconds: float = 30.0
    idle_seconds: float = 75.0
    """Longer than that of the usual load balancers: they must be the ones to hang up."""
    drain_idle_seconds: float = 1.0
    """How long an idle connection is still served while draining: a request may be on its way."""
    linger_seconds: float = 2.0
    linger_bytes: int = 67_108_864
    """What is read and thrown away after an early answer, so that the client can read it."""


class Stage(enum.Enum):
    """What the connection expects or does now."""

    HEAD = enum.auto()
    BODY = enum.auto()
    ANSWER = enum.auto()
    LINGER = enum.auto()
    CLOSED = enum.auto()


class Connection(asyncio.Protocol):
    """Reads one request at a time, runs the application on it, writes the answer."""

    limits: ClassVar[Limits] = Limits()
    counters: ClassVar[Counters] = Counters()

    @classmethod
    def configured(cls, limits: Limits, counters: Counters) -> type[Connection]:
        """uvicorn makes the instances and has no argument to pass: so a class of its own."""
        return type("Connection", (cls,), {"limits": limits, "counters": counters})

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app = cast("ASGIApp", config.loaded_app)
        self._server_state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._addresses: dict[str, Any] = {}
        self._common_headers: tuple[object, bytes] = (None, b"")

        self._stage = Stage.HEAD
        self._head = Head(self.limits.head_bytes)
        self._exchange: Exchange | None = None
        self._body_left = 0
        self._chunks: ChunkedBody | None = None
        self._ahead = b""  # what came behind the request in hand: not looked at yet
        self._discarded = 0
        self._eof = False
        self._draining = False

        self._reading = True
        self._writable: asyncio.Future[None] | None = None  # while the client does not read
        self._deadline = Deadline(self._loop, self._expire)

    # ---- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server_state.connections.add(cast("Any", self))
        self.counters.connections += 1
        for name, end in (("client", "peername"), ("server", "sockname")):
            address = transport.get_extra_info(end)
            self._addresses[name] = address[:2] if isinstance(address, tuple) else None
        self._deadline.set(self.limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._stage = Stage.CLOSED
        self._server_state.connections.discard(cast("Any", self))
        self.counters.connections -= 1
        self._deadline.close()
        if self._exchange is not None:
            self._exchange.abandon()
        self._release_writer()

    def data_received(self, data: bytes) -> None:
        if self._stage is Stage.LINGER:
            self._discarded += len(data)
            if self._discarded > self.limits.linger_bytes:
                self.abort()
        elif self._stage is Stage.ANSWER or self._writable is not None:
            self._ahead += data
            self._pause_reading()
        else:
            self._read(data)

    def eof_received(self) -> bool:
        """Half-closed: a client that has sent its whole request still gets the answer."""
        self._eof = True
        if self._stage is Stage.ANSWER and self._exchange is not None:
            self._exchange.close_after()
            return True
        if self._stage is Stage.BODY or (self._stage is Stage.HEAD and self._head.begun):
            self._refuse(400, "incomplete_request")
            return True
        return False

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        self._release_writer()
        if self._stage is Stage.HEAD:
            self._read_ahead()

    def shutdown(self) -> None:
        """Called by uvicorn when the server drains: what is in hand is finished, then closed."""
        self._draining = True
        if self._exchange is not None:
            self._exchange.close_after()
        elif self._stage is Stage.HEAD and not self._head.begun:
            self._deadline.set(self.limits.drain_idle_seconds)

    def cut_off_unless_answering(self) -> None:
        """The drain has waited long enough for what is still being sent."""
        if self._stage is not Stage.ANSWER:
            self.abort()

    def abort(self) -> None:
        self._stage = Stage.CLOSED
        if self._transport is not None:
            self._transport.abort()

    # ---- called by the exchange

    def write(self, data: bytes) -> None:
        if self._transport is not None and data:
            self._transport.write(data)

    async def drain(self) -> None:
        if self._writable is not None:
            await asyncio.shield(self._writable)

    def want_body(self) -> None:
        if self._stage is Stage.BODY:
            self._resume_reading()

    def common_headers(self) -> bytes:
        """The date; uvicorn renews the list once a second."""
        headers = self._server_state.default_headers
        if self._common_headers[0] is not headers:
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
            self._common_headers = (headers, lines)
        return self._common_headers[1]

    def finish(self, *, keep_alive: bool) -> None:
        self._exchange = None
        self._server_state.total_requests += 1
        if self._transport is None:
            return
        if self._stage is not Stage.ANSWER or (self._ahead and not keep_alive):
            self._linger()
        elif keep_alive:
            self._stage = Stage.HEAD
            self._head = Head(self.limits.head_bytes)
            self._deadline.set(self.limits.idle_seconds)
            self._read_ahead()
        else:
            self._close()

    # ---- reading

    def _read(self, data: bytes) -> None:
        at = 0
        try:
            while at < len(data):
                if self._stage is Stage.HEAD:
                    at = self._read_head(data, at)
                elif self._stage is Stage.BODY:
                    at = self._read_body(data, at)
                else:
                    self._ahead = data[at:]
                    self._pause_reading()
                    break
        except HeadTooLargeError:
            self._refuse(431, "headers_too_large")
        except BadRequestError:
            self._refuse(400, "bad_request")
        if self._stage is Stage.BODY and not self._deadline.is_set:
            self._deadline.set(self.limits.body_seconds)

    def _read_ahead(self) -> None:
        if self._writable is None:
            ahead, self._ahead = self._ahead, b""
            if ahead:
                self._read(ahead)
            if not self._ahead:
                self._resume_reading()

    def _read_head(self, data: bytes, at: int) -> int:
        head = self._head
        begun = head.begun
        if not begun and data[at] in b"\r\n":
            # Empty lines before a request are to be ignored (RFC 9112, 2.2).
            return len(data) - len(data[at:].lstrip(b"\r\n"))
        at = head.feed(data, at)
        if head.complete:
            self._begin(head)
        elif not begun:
            self._deadline.set(self.limits.head_seconds)
        return at

    def _begin(self, head: Head) -> None:
        has_body = head.chunked or head.content_length > 0
        self._body_left = head.content_length
        self._chunks = ChunkedBody() if head.chunked else None
        exchange = Exchange(self, head, self._scope(head), more_body=has_body)
        if self._draining:
            exchange.close_after()
        self._exchange = exchange
        self._stage = Stage.BODY if has_body else Stage.ANSWER
        self._deadline.clear()
        task = self._loop.create_task(self._run(exchange))
        self._server_state.tasks.add(task)
        task.add_done_callback(self._server_state.tasks.discard)

    def _scope(self, head: Head) -> Scope:
        target = head.target
        if not target.startswith(b"/"):
            target = _origin_form(target)
        path, _, query = target.partition(b"?")
        return cast(
            "Scope",
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": "1.1",
                "scheme": "http",
                "method": head.method,
                "root_path": "",
                "path": unquote_to_bytes(path).decode("utf-8", "replace"),
                "raw_path": path,
                "query_string": query,
                "headers": head.headers,
                "state": {},
                **self._addresses,
            },
        )

    def _read_body(self, data: bytes, at: int) -> int:
        exchange = self._exchange
        assert exchange is not None
        if self._chunks is None:
            stop = min(len(data), at + self._body_left)
            piece = data[at:stop]
            self._body_left -= stop - at
            more = self._body_left > 0
        else:
            piece, stop = self._chunks.feed(data, at)
            more = not self._chunks.complete
        exchange.feed(piece, more=more)
        if not more:
            self._stage = Stage.ANSWER
            self._deadline.clear()
        elif exchange.buffered > _HIGH_WATER:
            self._pause_reading()
        return stop

    def _pause_reading(self) -> None:
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    # ---- answering

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except Exception as error:
            self.counters.crashes += 1
            # Where, but not what it says: a message may quote what the client sent.
            places = [f"{frame.filename}:{frame.lineno}" for frame in _frames(error)]
            log.error("receiver.crashed", error=type(error).__name__, places=places)
        finally:
            if self._exchange is exchange and not exchange.answered:
                self._refuse(503, "unavailable")

    def _refuse(self, status: int, word: str) -> None:
        """Answers what the application cannot, and ends the connection."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon()
        if exchange is None or not exchange.started:
            self.counters.answers[status, word] += 1
            body = b'{"error":"%s"}' % word.encode("ascii")
            self.write(
                STATUS_LINE[status]
                + self.common_headers()
                + b"content-type: application/json\r\nconnection: close\r\n"
                + (b"retry-after: 5\r\n" if status == 503 else b"")
                + b"content-length: %d\r\n\r\n" % len(body)
                + body
            )
        self._linger()

    # ---- the end

    def _linger(self) -> None:
        """Closes our half and throws away what still comes.

        A socket that is closed while the client sends answers with a reset, which makes the
        client lose the answer that it has not read yet.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._ahead = b""
        if self._eof or not transport.can_write_eof():
            self._close()
            return
        try:
            transport.write_eof()
        except OSError:  # it has gone already, and the loop has not told us yet
            self._close()
            return
        self._stage = Stage.LINGER
        self._resume_reading()
        self._deadline.set(self.limits.linger_seconds)

    def _close(self) -> None:
        self._stage = Stage.CLOSED
        if self._transport is not None:
            self._transport.close()
            self._deadline.set(self.limits.linger_seconds)  # for a client that does not read

    def _release_writer(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def _expire(self) -> None:
        if self._stage is Stage.HEAD:
            self._close()
        elif self._stage is Stage.BODY:
            self._refuse(408, "body_timeout")
        else:
            self.abort()


def _origin_form(target: bytes) -> bytes:
    """Path and query of `http://host/path?query`, the form that proxies use."""
    if not target.lower().startswith((b"http://", b"https://")):
        raise BadRequestError
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError as error:
        raise BadRequestError from error
    return (url.path or b"/") + (b"?" + url.query if url.query else b"")


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    return list(traceback.extract_tb(error.__traceback__))[-5:]
