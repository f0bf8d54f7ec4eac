"""What goes wrong on demand."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from relay.dev.stripe_api.failure import ApiError, rate_limited

FaultKind = Literal[
    "global-rate",
    "endpoint-rate",
    "global-concurrency",
    "endpoint-concurrency",
    "resource-specific",
    "lock_timeout",
    "conflict",
    "error",
    "unavailable",
    "no_retry",
    "html",
    "dropped",
    "truncated",
    "slow",
    "empty_page",
    "delete_cursor",
    "delete",
    "create",
]
"""The first five are the reasons of a 429. `lock_timeout` is a 429 too, `conflict` a 409, `error` a
500, `unavailable` a 503 in HTML, `no_retry` a 500 with `Stripe-Should-Retry: false`, `html` a 200
in HTML. `dropped` ends the connection without an answer, `truncated` in the middle of one, `slow`
waits first. `empty_page` says that the list goes on and shows nothing of it. The last three answer
as usual and change the data afterwards: the page's last object is deleted, any object is, one is
created."""


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """Something that happens to a share of the requests."""

    kind: FaultKind
    share: float = 1.0
    times: int | None = None
    """How often it happens at most; counts down."""
    resource: str | None = None
    seconds: float = 0.1
    """Of `slow`."""


_HTML: Final = b"<html><head><title>%b</title></head><body><h1>%b</h1></body></html>\n"
_RATES: Final = frozenset(
    {
        "global-rate",
        "endpoint-rate",
        "global-concurrency",
        "endpoint-concurrency",
        "resource-specific",
    }
)
_AFTERWARDS: Final = frozenset({"delete_cursor", "delete", "create"})


class Faults:
    """The faults in force. The same seed and the same order of requests give the same faults."""

    def __init__(self, faults: Iterable[Fault], seed: str) -> None:
        self.all = list(faults)
        self.happened: dict[str, int] = {}
        self._random = random.Random(seed)  # noqa: S311 - to be repeatable, not secret

    def draw(self, resource: str) -> list[Fault]:
        """Those that happen to this request."""
        drawn = []
        for fault in self.all:
            if fault.resource not in (None, resource) or fault.times == 0:
                continue
            if self._random.random() >= fault.share:
                continue
            if fault.times is not None:
                fault.times -= 1
            self.happened[fault.kind] = self.happened.get(fault.kind, 0) + 1
            drawn.append(fault)
        return drawn


def error_of(fault: Fault) -> ApiError | None:
    """The error that a fault answers with instead of a page; None for the other kinds."""
    match fault.kind:
        case "lock_timeout":
            message = "This object cannot be accessed right now because another API request or"
            message += " Stripe process is currently accessing it."
            return ApiError(429, message, "lock_timeout")
        case "conflict":
            message = "There is currently another in-progress request using this key."
            return ApiError(409, message, kind="idempotency_error")
        case "error" | "no_retry":
            retry = (("Stripe-Should-Retry", "false"),) if fault.kind == "no_retry" else ()
            return ApiError(500, "An unknown error occurred.", kind="api_error", headers=retry)
        case kind:
            return rate_limited(kind) if kind in _RATES else None


def html(title: str) -> bytes:
    """What a proxy answers, not Stripe."""
    return _HTML % (title.encode(), title.encode())


def is_afterwards(fault: Fault) -> bool:
    """Whether it changes the data behind a good answer."""
    return fault.kind in _AFTERWARDS
