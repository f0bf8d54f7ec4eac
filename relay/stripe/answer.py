"""What an answer of the Stripe API means to someone who wants a page of a list.

Outcomes are values: a page, a delay after which the same request may succeed, or a refusal that
asking again will not change. How far a refusal reaches is part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Annotated, Any, Final, Literal

import msgspec

from relay.core import tokens
from relay.display import printable

DelayVerdict = Literal[
    "rate_limited", "locked", "conflict", "server_error", "unreachable", "timeout", "unusable"
]
RefusalVerdict = Literal[
    "wrong_key", "wrong_account", "no_access", "not_found", "cursor_gone", "refused", "unusable"
]
Scope = Literal["snapshot", "resource", "cursor"]

_SCOPES: Final[dict[RefusalVerdict, Scope]] = {
    "wrong_key": "snapshot",
    "wrong_account": "snapshot",
    "cursor_gone": "cursor",
}
_CURSORS: Final = frozenset({"starting_after", "ending_before"})

_LONGEST_MESSAGE: Final = 1000


# What a timestamp of PostgreSQL and a datetime can hold, and a day less.
_Moment = Annotated[int, msgspec.Meta(ge=-62_135_510_400, le=253_402_214_400)]


class ListedObject(msgspec.Struct, frozen=True, gc=False):
    """One element of a list."""

    id: str
    created: int | None
    """Unix seconds."""
    raw: bytes
    """Its JSON, exactly as it stood in the answer: UTF-8."""
    object_type: str | None = None
    """What it says it is."""


class Page(msgspec.Struct, frozen=True):
    """One page of a list, newest object first."""

    objects: tuple[ListedObject, ...]
    has_more: bool
    """Whether the list goes on, also when this page is empty."""
    date: int
    """When Stripe answered, by Stripe's clock, in Unix seconds."""
    request_id: str | None
    url: str
    """What was asked for."""
    size: int
    """Bytes of the body, unpacked."""
    seconds: float
    """From the request to the last byte."""


class Delayed(msgspec.Struct, frozen=True):
    """Nothing for now: the same request may succeed later."""

    verdict: DelayVerdict
    message: str
    """For people; Stripe's own where it gave one. Without secrets."""
    status: int | None = None
    """Of HTTP; None when there was no answer."""
    request_id: str | None = None
    limit_reason: str | None = None
    """Of `rate_limited`, as Stripe calls it: `global-rate`, `endpoint-rate`,
    `global-concurrency`, `endpoint-concurrency`, `resource-specific`."""
    retry_after: float | None = None
    """The least seconds to wait, if the answer says so; Stripe does not promise to."""

    @property
    def code(self) -> str:
        """A short stable word: ``stripe_<verdict>``."""
        return f"stripe_{self.verdict}"

    def __str__(self) -> str:
        return _told(self.message, self.status, self.request_id)


class Refused(msgspec.Struct, frozen=True):
    """No, and no again however often it is asked."""

    verdict: RefusalVerdict
    message: str
    """For people; Stripe's own where it gave one. Without secrets."""
    status: int | None = None
    request_id: str | None = None
    stripe_code: str | None = None
    """`code` of Stripe's error."""
    param: str | None = None

    @property
    def code(self) -> str:
        """A short stable word: ``stripe_<verdict>``."""
        return f"stripe_{self.verdict}"

    @property
    def scope(self) -> Scope:
        """What cannot go on: everything under this key, this resource, or only from this cursor."""
        return _SCOPES.get(self.verdict, "resource")

    def __str__(self) -> str:
        return _told(self.message, self.status, self.request_id)


Answer = Page | Delayed | Refused


class _List(msgspec.Struct):
    object: Literal["list"]
    data: list[msgspec.Raw]
    has_more: bool


class _Error(msgspec.Struct):
    message: str | None = None
    code: str | None = None
    param: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error


_decode_list: Final = msgspec.json.Decoder(_List).decode
_decode_error: Final = msgspec.json.Decoder(_ErrorBody).decode


@cache
def _object_decoder(created_field: str) -> msgspec.json.Decoder[Any]:
    created = msgspec.field(default=None, name=created_field)
    about = msgspec.defstruct(
        "_Object",
        [
            ("id", str),
            ("created", _Moment | None, created),
            ("object", msgspec.Raw, msgspec.Raw()),
        ],
        gc=False,
    )
    return msgspec.json.Decoder(about)


def read_answer(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    url: str,
    seconds: float,
    created_field: str = "created",
) -> Answer:
    """What the answer to a request for a list is. Header names are looked up in lower case."""
    if status != 200:
        return _read_failure(status, headers, body)
    request_id = headers.get("request-id")
    try:
        objects, has_more = _read_list(body, created_field)
        date = _read_date(headers.get("date"))
    except ValueError as error:
        return Delayed("unusable", f"not an answer of the Stripe API: {error}", 200, request_id)
    return Page(objects, has_more, date, request_id, url, len(body), seconds)


def _read_list(body: bytes, created_field: str) -> tuple[tuple[ListedObject, ...], bool]:
    """Raises ValueError, whose text shows nothing of the body."""
    try:
        listed = _decode_list(body)
    except msgspec.ValidationError as error:
        raise ValueError(f"not a list: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ValueError("the body is not JSON") from None
    decode = _object_decoder(created_field).decode
    objects = []
    for number, raw in enumerate(listed.data):
        try:
            head = decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"object {number} of the list: {error}") from None
        if not head.id or "\0" in head.id:
            raise ValueError(f"object {number} of the list has a blank id, or one with NUL")
        exact = bytes(raw)
        if not exact.isascii() and not _is_utf8(exact):
            raise ValueError(f"object {number} of the list is not UTF-8")
        objects.append(ListedObject(head.id, head.created, exact, _string(bytes(head.object))))
    return tuple(objects), listed.has_more


def _string(token: bytes) -> str | None:
    return tokens.string(token) if token.startswith(b'"') else None


def _is_utf8(text: bytes) -> bool:
    """The decoder of JSON skips over strings that nobody asks for without looking at their bytes.

    Each object by itself: the whole page as one string, four bytes a character if there is an
    emoji in it, cost ten times as much.
    """
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _read_date(text: str | None) -> int:
    if text is None:
        raise ValueError("it has no Date header")
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"its Date header cannot be read: {printable(text[:100])!r}")
    return int(moment.timestamp())


def _read_failure(status: int, headers: Mapping[str, str], body: bytes) -> Delayed | Refused:
    error = _read_error(body)
    message = printable((error.message or "")[:_LONGEST_MESSAGE]) or (
        f"HTTP {status} without an error message of the Stripe API"
    )
    request_id = headers.get("request-id")
    delay = _delay_of(status, error.code)
    # Stripe knows better than the status (https://docs.stripe.com/error-low-level#retries).
    should_retry = headers.get("stripe-should-retry")
    if should_retry == "true":
        delay = delay or "server_error"
    elif should_retry == "false":
        delay = None
    if delay is not None:
        reason = headers.get("stripe-rate-limited-reason") if delay == "rate_limited" else None
        retry_after = _seconds(headers.get("retry-after"))
        return Delayed(delay, message, status, request_id, reason, retry_after)
    verdict = _refusal_of(status, error)
    return Refused(verdict, message, status, request_id, error.code, error.param)


def _read_error(body: bytes) -> _Error:
    try:
        return _decode_error(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Error()


def _delay_of(status: int, stripe_code: str | None) -> DelayVerdict | None:
    if status == 429:
        return "locked" if stripe_code == "lock_timeout" else "rate_limited"
    if status == 409:
        return "conflict"
    if status == 408 or status >= 500:
        return "server_error"
    # Of a proxy, or of something else that RELAY_STRIPE_API_BASE leads to.
    return "unusable" if status < 400 else None


def _refusal_of(status: int, error: _Error) -> RefusalVerdict:
    if error.code == "resource_missing" and error.param in _CURSORS:
        return "cursor_gone"
    if error.code == "account_invalid":
        return "wrong_account"
    by_status: dict[int, RefusalVerdict] = {401: "wrong_key", 403: "no_access", 404: "not_found"}
    return by_status.get(status, "refused")


def _seconds(text: str | None) -> float | None:
    """Of a Retry-After header; its other form, a date, counts as none."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None


def _told(message: str, status: int | None, request_id: str | None) -> str:
    about = [f"HTTP {status}"] if status is not None else []
    about += [f"request {request_id}"] if request_id is not None else []
    return f"{message} ({', '.join(about)})" if about else message
