"""The list endpoints: who asks, for what, and the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec

from relay.core.listings import API_VERSION
from relay.dev.stripe_api import failure, query
from relay.dev.stripe_api.dataset import Account, CursorGoneError, Part, Query, Resource
from relay.dev.stripe_api.faults import Fault, Faults, error_of, html
from relay.dev.stripe_api.kinds import BY_PATH, Kind
from relay.dev.stripe_api.limits import Traffic

Headers = tuple[tuple[str, str], ...]

JSON: Final[Headers] = (("Content-Type", "application/json"),)
_HTML: Final[Headers] = (("Content-Type", "text/html; charset=utf-8"),)


class Reply(msgspec.Struct, frozen=True):
    """An answer before it is sent. `cut`: the connection ends in the middle of the body."""

    status: int
    body: bytes
    headers: Headers = JSON
    cut: bool = False


class DroppedError(Exception):
    """The connection ends without an answer."""


class Caller(msgspec.Struct, frozen=True):
    """Who asks, and for whose objects."""

    key: str
    account: str
    live: bool


class Lists:
    """Answers one request for a list; see `FakeStripe` for the arguments."""

    def __init__(
        self,
        *,
        account_of: Callable[[str, bool], Account | None],
        own_account: str,
        keys: Mapping[str, Collection[str] | None],
        traffic: Traffic,
        faults: Faults,
        clock: Callable[[], float],
        required: Mapping[str, str],
    ) -> None:
        self._account_of = account_of
        self._own_account = own_account
        self._keys = keys
        self._traffic = traffic
        self._faults = faults
        self._clock = clock
        self._required = required

    async def answer(
        self, method: str, path: str, query_string: bytes, headers: Mapping[str, str]
    ) -> Reply:
        """Raises DroppedError, and ApiError for every answer in Stripe's form that is no list."""
        kind = BY_PATH.get(path)
        if kind is None or method != "GET":
            raise failure.unknown_url(method, path)
        caller = self._caller(headers)
        name = kind.listing.resource
        reason = self._traffic.admit(caller.account, name)
        if reason is not None:
            raise failure.rate_limited(reason)
        faults = self._faults.draw(name)
        early = await _early(faults)
        if early is not None:
            return early
        resource = self._resource(caller, kind, headers)
        asked = query.parse(query_string, kind, self._required)
        try:
            part = resource.select(asked)
        except CursorGoneError as gone:
            object_type = kind.listing.object_type
            raise failure.no_such_object(object_type, gone.object_id, gone.param) from None
        kinds = {fault.kind for fault in faults}
        if "empty_page" in kinds:
            part = Part((), True)
        body = _page(resource, part, asked, path)
        self._change(resource, part, kinds)
        return Reply(200, body, cut="truncated" in kinds)

    def _caller(self, headers: Mapping[str, str]) -> Caller:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise failure.no_key()
        if key.startswith("pk_"):
            raise failure.publishable_key()
        if key not in self._keys:
            raise failure.wrong_key(key)
        return Caller(key, headers.get("stripe-account", self._own_account), "_live_" in key)

    def _resource(self, caller: Caller, kind: Kind, headers: Mapping[str, str]) -> Resource:
        version = headers.get("stripe-version", API_VERSION)
        if not version[:10].replace("-", "").isdigit():
            raise failure.unknown_version(version)
        account = self._account_of(caller.account, caller.live)
        if account is None:
            raise failure.no_such_account(caller.key, caller.account)
        name = kind.listing.resource
        allowed = self._keys[caller.key]
        if allowed is not None and name not in allowed:
            raise failure.no_permission(caller.key, name, caller.account)
        return account.resources[name]

    def _change(self, resource: Resource, part: Part, kinds: Collection[str]) -> None:
        """What happens to the data right behind an answer."""
        if "delete_cursor" in kinds and part.rows:
            resource.delete(part.rows[-1].id)
        if "delete" in kinds:
            resource.delete_random()
        if "create" in kinds:
            resource.create(int(self._clock()))


async def _early(faults: Collection[Fault]) -> Reply | None:
    """What comes instead of a page. Raises ApiError and DroppedError."""
    for fault in faults:
        error = error_of(fault)
        if error is not None:
            raise error
        match fault.kind:
            case "slow":
                await asyncio.sleep(fault.seconds)
            case "dropped":
                raise DroppedError
            case "unavailable":
                return Reply(503, html("503 Service Temporarily Unavailable"), _HTML)
            case "html":
                return Reply(200, html("Sign in"), _HTML)
    return None


def _page(resource: Resource, part: Part, asked: Query, path: str) -> bytes:
    head = b'{\n  "object": "list",\n  "data": [\n'
    more = b"true" if part.has_more else b"false"
    tail = b'\n  ],\n  "has_more": %b,\n  "url": "%b"\n}\n' % (more, path.encode())
    return head + b",\n".join([resource.render(row, asked.expand) for row in part.rows]) + tail
