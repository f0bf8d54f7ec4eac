"""Posts signed events to the webhook endpoint over several connections, as Stripe would."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import httpx
import msgspec

from relay.core import signature
from relay.dev.traffic import Expected, Posting

PATIENCE_SECONDS: Final = 30.0
"""How long one event is posted again, as Stripe does for days, when it cannot be stored now."""
_PAUSE_SECONDS: Final = 0.2
_TIMEOUT_SECONDS: Final = 30.0
_FORGER: Final = "whsec_of_somebody_else"


class Endpoint(msgspec.Struct, frozen=True):
    """Where the events of a source go, key included, and what they are signed with."""

    path: str
    signing_secret: str


class Answer(msgspec.Struct, frozen=True):
    """What a request was answered: the status (0: nothing at all) and the JSON."""

    status: int
    content: dict[str, Any]

    @property
    def accepted(self) -> bool:
        return 200 <= self.status < 300

    @property
    def duplicate(self) -> bool:
        return self.content.get("duplicate") is True


class Sent(msgspec.Struct, frozen=True):
    """One event as its sender knows it: an answer for each time that it was sent.

    ``began`` and ``answered`` are Unix seconds on a clock that never steps; ``answered`` is the
    moment of the first 2xx. ``retried``: an answer may have been lost on the way.
    """

    source: str
    event_id: str
    sha256: bytes
    expected: Expected
    answers: tuple[Answer, ...]
    began: float
    answered: float | None
    retried: bool


class Sender:
    """Sends every line over a connection of its own; ``sent`` grows with the answers."""

    def __init__(self, base_url: str, endpoints: Mapping[str, Endpoint]) -> None:
        self.sent: list[Sent] = []
        self._base_url = base_url
        self._endpoints = endpoints
        self._epoch = time.time() - time.monotonic()

    async def send(self, lines: Sequence[Iterator[Posting]]) -> None:
        async with asyncio.TaskGroup() as group:
            for line in lines:
                group.create_task(self._send_line(line))

    async def _send_line(self, line: Iterator[Posting]) -> None:
        # A client of its own: one pool for all looks at each connection before every request.
        # Nothing of the environment, such as proxies, and no certificates: this is this machine.
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        async with httpx.AsyncClient(
            base_url=self._base_url, timeout=_TIMEOUT_SECONDS, trust_env=False, verify=plain
        ) as client:
            for posting in line:
                self.sent.append(await self._send_one(client, posting))

    async def _send_one(self, client: httpx.AsyncClient, posting: Posting) -> Sent:
        began = self._now()
        if posting.repeat == "at_once":
            tries = await asyncio.gather(*[self._post(client, posting) for _ in range(2)])
        else:
            tries = [await self._post(client, posting)]
        if posting.repeat == "again":
            tries.append(await self._post(client, posting))
        accepted = [at for answer, at, _ in tries if answer.accepted]
        return Sent(
            source=posting.source,
            event_id=posting.event_id,
            sha256=sha256(posting.body).digest(),
            expected=posting.expected,
            answers=tuple(answer for answer, _, _ in tries),
            began=began,
            answered=min(accepted, default=None),
            retried=any(retried for _, _, retried in tries),
        )

    async def _post(
        self, client: httpx.AsyncClient, posting: Posting
    ) -> tuple[Answer, float, bool]:
        """The answer, when it came, and whether it took more than one request."""
        gives_up = self._now() + PATIENCE_SECONDS
        retried = False
        while True:
            answer = await self._request(client, posting)
            now = self._now()
            if answer.status not in (0, 503) or now >= gives_up:
                return answer, now, retried
            retried = True
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _request(self, client: httpx.AsyncClient, posting: Posting) -> Answer:
        endpoint = self._endpoints[posting.source]
        forged = posting.expected.state == "refused"
        secret = _FORGER if forged else endpoint.signing_secret
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature.sign(posting.body, secret, int(time.time())),
        }
        try:
            response = await client.post(endpoint.path, content=posting.body, headers=headers)
            return Answer(response.status_code, response.json())
        except httpx.TransportError as error:
            return Answer(0, {"error": type(error).__name__})
        except ValueError:
            return Answer(response.status_code, {})

    def _now(self) -> float:
        return self._epoch + time.monotonic()
