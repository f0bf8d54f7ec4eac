"""The fake as a bare ASGI application. Its scope needs the extension `transport` (`server`)."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from email.utils import formatdate
from typing import Any

from relay.core.listings import API_VERSION
from relay.dev import samples
from relay.dev.stripe_api.control import CONTROL, Control
from relay.dev.stripe_api.failure import ApiError
from relay.dev.stripe_api.limits import Traffic
from relay.dev.stripe_api.lists import JSON, DroppedError, Headers, Lists, Reply

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class StripeApp:
    """Lists for everybody, `/_fake/…` for the test."""

    def __init__(
        self,
        lists: Lists,
        control: Control,
        traffic: Traffic,
        *,
        clock: Callable[[], float],
        packs: bool,
    ) -> None:
        self._lists = lists
        self._control = control
        self._traffic = traffic
        self._clock = clock
        self._packs = packs
        self._answers = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(CONTROL):
            reply = await self._steer(scope, receive)
        else:
            try:
                reply = await self._list(scope)
            except DroppedError:
                self._traffic.statuses[0] += 1
                scope["extensions"]["transport"].abort()
                return await _gone(receive)
            self._traffic.statuses[reply.status] += 1
        await send({"type": "http.response.start", "status": reply.status, "headers": _raw(reply)})
        if not reply.cut:
            return await send({"type": "http.response.body", "body": reply.body})
        half = reply.body[: len(reply.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        scope["extensions"]["transport"].close()
        return await _gone(receive)

    async def _steer(self, scope: Scope, receive: Receive) -> Reply:
        status, body = self._control.answer(scope["method"], scope["path"], await _read(receive))
        return Reply(status, body)

    async def _list(self, scope: Scope) -> Reply:
        """Raises DroppedError."""
        asked = {name.decode("latin-1"): text.decode("latin-1") for name, text in scope["headers"]}
        method, path = scope["method"], scope["path"]
        try:
            reply = await self._lists.answer(method, path, scope["query_string"], asked)
        except ApiError as error:
            reply = Reply(error.status, error.body, JSON + error.headers)
        return self._finished(reply, asked)

    def _finished(self, reply: Reply, asked: Mapping[str, str]) -> Reply:
        """With what Stripe adds to every answer."""
        self._answers += 1
        headers: Headers = (
            *reply.headers,
            ("Date", formatdate(int(self._clock()), usegmt=True)),
            ("Request-Id", "req_" + samples.id_letters(f"request/{self._answers}", 14)),
            ("Stripe-Version", asked.get("stripe-version", API_VERSION)),
        )
        if "stripe-account" in asked:
            headers += (("Stripe-Account", asked["stripe-account"]),)
        body = reply.body
        if self._packs and "gzip" in asked.get("accept-encoding", ""):
            body = gzip.compress(body, 1)
            headers += (("Content-Encoding", "gzip"),)
        return Reply(reply.status, body, headers, reply.cut)


def _raw(reply: Reply) -> list[tuple[bytes, bytes]]:
    headers = (*reply.headers, ("Content-Length", str(len(reply.body))))
    return [(name.lower().encode(), text.encode("latin-1")) for name, text in headers]


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _gone(receive: Receive) -> None:
    """Until the server has noticed that the connection is; else it would finish the answer."""
    while (await receive())["type"] != "http.disconnect":
        pass
