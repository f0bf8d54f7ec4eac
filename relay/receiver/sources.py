"""The sources and keys that may post: cached, but never for longer than the contract says."""

from __future__ import annotations

import asyncio
import hmac
import time
from hashlib import sha256
from typing import Final
from urllib.parse import unquote_to_bytes

import structlog

from relay.receiver.commit import CannotStoreError
from relay.store import admission
from relay.store.admission import Admission, Admitted
from relay.store.engine import Database
from relay.store.sealing import Seal
from relay.store.trouble import explain

log: Final = structlog.get_logger("relay.receiver")

MAX_AGE_SECONDS: Final = 5.0
"""How long a revoked key may still be good, and a deleted source still receive."""
_RENEW_AGE_SECONDS: Final = 2.5
"""From here on the cache is renewed beside the requests, so that none has to wait for it."""
_MISS_AGE_SECONDS: Final = 1.0
"""A key that is not in a cache older than this may be new: worth one look."""
_RETRY_SECONDS: Final = 0.25
_LOAD_SECONDS: Final = 5.0

_NO_KEYS: Final = (bytes(32),)


class Sources:
    """Who may post. It renews itself by being asked; nothing runs while nobody posts."""

    def __init__(self, database: Database, seal: Seal) -> None:
        self._database = database
        self._seal = seal
        self._admission = Admission({}, 0.0)
        self._loaded_at = -float("inf")
        self._failed_at = -float("inf")
        self._away = False
        self._loading: asyncio.Task[bool] | None = None

    def now(self) -> float:
        """PostgreSQL's time in Unix seconds, as near as the last measurement came."""
        return time.time() + self._admission.clock_offset

    async def admit(self, public_id: str, query: bytes) -> Admitted | None:
        """The source that the key in the query opens; None for whatever is wrong.

        Raises CannotStoreError when only the database could tell, and it is away.
        """
        age = asyncio.get_running_loop().time() - self._loaded_at
        if age > MAX_AGE_SECONDS:
            await self.renew()
            age = 0.0
        elif age > _RENEW_AGE_SECONDS:
            self._start_loading()
        found = self._match(public_id, query)
        if found is None and age > _MISS_AGE_SECONDS:
            await self.renew()
            found = self._match(public_id, query)
        return found

    async def renew(self) -> None:
        """Reads the sources anew. Raises CannotStoreError."""
        # Shielded: the one who asked first may go away, the others wait for the same answer.
        if not await asyncio.shield(self._start_loading()):
            raise CannotStoreError

    def _match(self, public_id: str, query: bytes) -> Admitted | None:
        """The same work for every wrong request, whatever is wrong with it."""
        source = self._admission.sources.get(public_id)
        key = api_key_of(query)
        presented = sha256(key or b"").digest()
        good = False
        for stored in (source.key_sha256s if source is not None else ()) or _NO_KEYS:
            good |= hmac.compare_digest(stored, presented)
        return source if good and key else None

    def _start_loading(self) -> asyncio.Task[bool]:
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._load(), name="relay-sources")
        return self._loading

    async def _load(self) -> bool:
        loop = asyncio.get_running_loop()
        if loop.time() - self._failed_at < _RETRY_SECONDS:
            return False
        began = loop.time()
        try:
            async with self._database.begin(_LOAD_SECONDS) as connection:
                self._admission = await admission.load(connection, self._seal)
        except Exception as error:  # whatever it is: without the sources nobody can be let in
            self._failed_at = loop.time()
            if not self._away:
                self._away = True
                log.warning(
                    "receiver.sources_unavailable",
                    error=type(error).__name__,
                    reason=explain(error),
                )
            return False
        self._loaded_at = began
        if self._away:
            self._away = False
            log.info("receiver.sources_available", sources=len(self._admission.sources))
        return True


def api_key_of(query: bytes) -> bytes | None:
    """The value of `api_key`; None when there is none, or more than one."""
    values = [
        value
        for name, _, value in (part.partition(b"=") for part in query.split(b"&"))
        if name == b"api_key"
    ]
    return unquote_to_bytes(values[0]) if len(values) == 1 else None
