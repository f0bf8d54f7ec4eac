"""Where a request starts and ends in a stream of bytes.

httptools (llhttp, strict) judges the head. What follows is counted here and not given to it: its
parser does not tell the position of anything, so it cannot say how long a head was, and it drops
the body of a request that also offers an upgrade (some clients offer `h2c` with every POST).
"""

from __future__ import annotations

import re
from typing import Final

import httptools

_BLANK_LINE: Final = b"\r\n\r\n"
_CRLF: Final = b"\r\n"

_MAX_SIZE_LINE: Final = 4096
_MAX_TRAILER_BYTES: Final = 65_536
_size_line: Final = re.compile(
    rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?"
).fullmatch


class BadRequestError(Exception):
    """The bytes are not HTTP, or not a kind of it that can be answered."""


class HeadTooLargeError(Exception):
    """The request line and the headers are longer than the limit."""


class Head:
    """One request's line and headers, as they come in; at most `limit` bytes, blank line included.

    `complete` turns true with the last byte, and only then the other attributes have a meaning.
    """

    __slots__ = (
        "_limit",
        "_parser",
        "_size",
        "_tail",
        "chunked",
        "complete",
        "content_length",
        "expects_continue",
        "headers",
        "keep_alive",
        "method",
        "target",
    )

    def __init__(self, limit: int) -> None:
        self.complete = False
        self.method = ""
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.keep_alive = False
        self.chunked = False
        self.content_length = 0
        self.expects_continue = False
        self._limit = limit
        self._size = 0
        self._tail = b""
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)

    @property
    def begun(self) -> bool:
        return self._size > 0

    def feed(self, data: bytes, at: int) -> int:
        """Takes its part of `data[at:]` and returns where that ends.

        Raises BadRequestError and HeadTooLargeError, and is of no further use then.
        """
        stop, whole = self._find_end(data, at)
        self._size += stop - at
        if self._size > self._limit:
            raise HeadTooLargeError
        assert self._parser is not None
        piece = data[at:stop]
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass  # CONNECT, or an offer to speak another protocol, which is not taken up
        except httptools.HttpParserError as error:
            raise BadRequestError from error
        if whole != self.complete:
            raise BadRequestError  # two opinions of where a head ends are one too many
        self._tail = (self._tail + piece)[-3:]
        return stop

    def _find_end(self, data: bytes, at: int) -> tuple[int, bool]:
        if self._tail:
            # The blank line may lie across two reads.
            across = (self._tail + data[at : at + 3]).find(_BLANK_LINE)
            if across >= 0:
                return at + across + len(_BLANK_LINE) - len(self._tail), True
        found = data.find(_BLANK_LINE, at)
        return (len(data), False) if found < 0 else (found + len(_BLANK_LINE), True)

    # Called by the parser.

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name == b"content-length":
            self.content_length = int(value)
        elif name == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                raise BadRequestError  # another coding: we could not undo it
            self.chunked = True
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expects_continue = True

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        version = parser.get_http_version()
        if version == "1.1":
            self.keep_alive = parser.should_keep_alive()
        elif version != "1.0" or self.chunked:
            raise BadRequestError
        else:
            self.expects_continue = False
        self.method = parser.get_method().decode("ascii")
        self.complete = True
        self._parser = None  # the parser refers to this object: a cycle for the collector


class ChunkedBody:
    """Undoes `Transfer-Encoding: chunked`; strict, with bounds on everything that is not body."""

    __slots__ = ("_in_trailer", "_left", "_line", "_trailer_bytes", "complete")

    def __init__(self) -> None:
        self.complete = False
        self._left = 0  # bytes of the present chunk, its CRLF included
        self._line = b""  # the beginning of a line that is not complete
        self._in_trailer = False
        self._trailer_bytes = 0

    def feed(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Takes its part of `data[at:]`; returns the body bytes in it and where it ends.

        Raises BadRequestError and HeadTooLargeError (trailers are headers too).
        """
        pieces: list[bytes] = []
        while at < len(data) and not self.complete:
            if self._left:
                at = self._feed_chunk(data, at, pieces)
                continue
            end = data.find(b"\n", at) + 1
            stop = end or len(data)
            self._line += data[at:stop]
            at = stop
            if self._in_trailer:
                self._feed_trailer(whole=bool(end))
            elif len(self._line) > _MAX_SIZE_LINE:
                raise BadRequestError
            elif end:
                self._feed_size()
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), at

    def _feed_chunk(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        body = min(self._left - 2, len(data) - at)
        if body > 0:
            pieces.append(data[at : at + body])
            self._left -= body
            at += body
        while 0 < self._left <= 2 and at < len(data):
            if data[at] != _CRLF[2 - self._left]:
                raise BadRequestError
            self._left -= 1
            at += 1
        return at

    def _feed_size(self) -> None:
        line, self._line = self._line, b""
        found = _size_line(line[:-2]) if line.endswith(_CRLF) else None
        if found is None:
            raise BadRequestError
        size = int(found[1], 16)
        if size:
            self._left = size + len(_CRLF)
        else:
            self._in_trailer = True

    def _feed_trailer(self, *, whole: bool) -> None:
        if self._trailer_bytes + len(self._line) > _MAX_TRAILER_BYTES:
            raise HeadTooLargeError
        if not whole:
            return
        line, self._line = self._line, b""
        if not line.endswith(_CRLF):
            raise BadRequestError
        self._trailer_bytes += len(line)
        self.complete = line == _CRLF
