"""What the webhook route can say: the answers of the HTTP contract, made once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from relay.core.errors import SignatureError

if TYPE_CHECKING:
    from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent, Send

RETRY_AFTER_SECONDS: Final = 5


class Answer:
    """A status and a small JSON body, as the two ASGI messages that send it."""

    __slots__ = ("_body", "_start", "status", "word")

    def __init__(
        self,
        status: int,
        word: str,
        content: object = None,
        *headers: tuple[bytes, bytes],
        close: bool = False,
    ) -> None:
        self.status = status
        self.word = word
        """For counters and tests: the error's code, or what was done."""
        body = msgspec.json.encode({"error": word} if content is None else content)
        lines = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *headers,
        ]
        if close:
            lines.append((b"connection", b"close"))
        self._start: HTTPResponseStartEvent = {
            "type": "http.response.start",
            "status": status,
            "headers": lines,
        }
        self._body: HTTPResponseBodyEvent = {
            "type": "http.response.body",
            "body": body,
            "more_body": False,
        }

    async def send(self, send: Send) -> None:
        await send(self._start)
        await send(self._body)


STORED: Final = Answer(200, "stored", {"received": True})
DUPLICATE: Final = Answer(200, "duplicate", {"received": True, "duplicate": True})

# These are given before the body was read, or in the middle of it.
METHOD_NOT_ALLOWED: Final = Answer(405, "method_not_allowed", None, (b"allow", b"POST"), close=True)
SOURCE_ADDRESS: Final = Answer(403, "source_address", close=True)
UNAUTHORIZED: Final = Answer(
    401, "unauthorized", None, (b"www-authenticate", b"api_key"), close=True
)
CONTENT_ENCODING: Final = Answer(415, "content_encoding", close=True)
TOO_LARGE: Final = Answer(413, "body_too_large", close=True)

_RETRY: Final = (b"retry-after", b"%d" % RETRY_AFTER_SECONDS)
OVERLOADED: Final = Answer(503, "overloaded", None, _RETRY, close=True)
UNAVAILABLE: Final = Answer(503, "unavailable", None, _RETRY)


ANSWERS: Final = (
    *((answer.status, answer.word) for answer in (STORED, DUPLICATE)),
    (200, "dead_letter"),
    *((400, code) for code in SignatureError.CODES),
    # What the connection answers by itself.
    (400, "bad_request"),
    (400, "incomplete_request"),
    (408, "body_timeout"),
    (431, "headers_too_large"),
    *(
        (answer.status, answer.word)
        for answer in (
            UNAUTHORIZED,
            SOURCE_ADDRESS,
            METHOD_NOT_ALLOWED,
            TOO_LARGE,
            CONTENT_ENCODING,
            OVERLOADED,
            UNAVAILABLE,
        )
    ),
)
"""Status and word of everything that is said here."""


def dead_letter(code: str) -> Answer:
    return Answer(200, "dead_letter", {"received": True, "dead_letter": code})


def bad_signature(code: str) -> Answer:
    return Answer(400, code)
