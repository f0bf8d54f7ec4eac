"""Who may do what: tokens, and the signed sessions that browsers hold instead of one.

A session is a cookie that proves itself: its role, when it ends, a random number and the name that
was given at the login, signed with a key that is derived from the token of its role. So any admin
process knows the sessions that another one began, and a changed token ends all of its sessions.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from typing import Final, Literal

import msgspec

Role = Literal["operator", "viewer"]

SESSION_SECONDS: Final = 12 * 3600
MOST_NAME: Final = 60
"""Characters of the name of a person or a program."""
_COOKIE: Final = re.compile(
    r"(operator|viewer)\.([0-9]{1,12})\.([0-9a-f]{32})\.((?:[0-9a-f]{2}){0,240})\.([0-9a-f]{64})"
)


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may do. ``csrf`` is what its forms must bring back."""

    role: Role
    csrf: str | None = None
    """None for a request that shows a token: no other site can make a browser send one."""
    is_open: bool = False
    """Nobody has to log in here."""
    name: str = ""
    """Who it is, by his own word: a token may be that of many."""

    @property
    def may_change(self) -> bool:
        return self.role == "operator"

    @property
    def who(self) -> str:
        """For the operator log."""
        way = "API" if self.csrf is None else "dashboard"
        return f"{self.name} ({way})" if self.name else way


def name_of(text: str) -> str:
    """A name as it is kept: in one line, of characters that can be seen, and not too long."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())[:MOST_NAME].strip()


class Tokens:
    """The tokens that there are; without the operator's, whoever asks is an operator."""

    def __init__(
        self,
        operator: str | None,
        viewer: str | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.is_open = operator is None
        given: dict[Role, str | None] = {"operator": operator, "viewer": viewer}
        self._digests: dict[Role, bytes] = {
            role: _digest(token) for role, token in given.items() if token is not None
        }
        self._keys: dict[Role, bytes] = {
            role: _sign(token.encode("utf-8"), "relay session key")
            for role, token in given.items()
            if token is not None
        }
        if self.is_open:
            self._keys["operator"] = secrets.token_bytes(32)
        self._clock = clock

    def role_of(self, token: str) -> Role | None:
        """Whose token it is; all are compared, in constant time."""
        found: Role | None = None
        digest = _digest(token)
        for role, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = role
        return found

    def begin(self, role: Role, name: str = "") -> str:
        """The cookie of a new session."""
        ends = int(self._clock()) + SESSION_SECONDS
        claim = f"{role}.{ends}.{secrets.token_hex(16)}.{name.encode('utf-8').hex()}"
        return f"{claim}.{self._signature(role, 'session', claim)}"

    def read(self, cookie: str) -> Access | None:
        """What a session may do; None for one that is forged, altered or over."""
        match = _COOKIE.fullmatch(cookie)
        if match is None:
            return None
        role: Role = "operator" if match[1] == "operator" else "viewer"
        claim = cookie.rpartition(".")[0]
        if role not in self._keys or not hmac.compare_digest(
            match[5], self._signature(role, "session", claim)
        ):
            return None
        if int(match[2]) <= self._clock():
            return None
        csrf = self._signature(role, "csrf", claim)
        name = bytes.fromhex(match[4]).decode("utf-8")
        return Access(role=role, csrf=csrf, is_open=self.is_open, name=name)

    def _signature(self, role: Role, purpose: str, claim: str) -> str:
        return _sign(self._keys[role], f"{purpose} {claim}").hex()


def _digest(token: str) -> bytes:
    # What a header carries need not be text that UTF-8 can hold.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _sign(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode("utf-8"), hashlib.sha256).digest()


class Throttle:
    """How often one address may be wrong about the token."""

    MOST = 10
    SECONDS = 60.0
    _PAUSE_SECONDS = 0.3
    _ADDRESSES = 1000

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, list[float]] = {}

    def is_closed(self, address: str) -> bool:
        """Whether its next try is refused unseen."""
        return len(self._recent(address)) >= self.MOST

    async def fail(self, address: str) -> None:
        """It was wrong: note it, and let it wait for a moment."""
        self.note(address)
        await asyncio.sleep(self._PAUSE_SECONDS)

    def note(self, address: str) -> None:
        """It was wrong."""
        recent = [*self._recent(address), self._clock()]
        self._failures.pop(address, None)
        self._failures[address] = recent  # the last one in the order of the dictionary
        if len(self._failures) > self._ADDRESSES:
            del self._failures[next(iter(self._failures))]

    def _recent(self, address: str) -> list[float]:
        since = self._clock() - self.SECONDS
        return [moment for moment in self._failures.get(address, ()) if moment > since]
