"""A sample of the requests whose signature was refused, kept for people to find the mistake."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import structlog

from relay.core.errors import SignatureError
from relay.core.source import SourceConfig
from relay.receiver.counters import Counters
from relay.store import inbox
from relay.store.engine import Database
from relay.store.failures import DATABASE_FAILURES
from relay.store.inbox import REFUSED_SAMPLE_BYTES

log: Final = structlog.get_logger("relay.receiver")

_WINDOW_SECONDS: Final = 60.0
_PER_WINDOW: Final = 10
"""Samples of one source and one code in one window: garbage must not fill the database."""
_MAX_WAITING: Final = 16


class RefusedSamples:
    """Writes beside the requests: nothing here delays or changes an answer."""

    def __init__(self, database: Database, counters: Counters) -> None:
        self._database = database
        self._counters = counters
        self._waiting: deque[tuple[int, SignatureError, bytes]] = deque()
        self._taken: dict[tuple[int, str], int] = {}
        self._window_ends = 0.0
        self._writer: asyncio.Task[None] | None = None

    def offer(self, source: SourceConfig, error: SignatureError, body: bytes) -> None:
        """Reports the request and keeps it, unless there are enough of its kind."""
        now = asyncio.get_running_loop().time()
        if now >= self._window_ends:
            self._taken.clear()
            self._window_ends = now + _WINDOW_SECONDS
        kind = source.source_id, error.code
        taken = self._taken.get(kind, 0)
        if taken >= _PER_WINDOW or len(self._waiting) >= _MAX_WAITING:
            self._counters.refused_dropped += 1
            return
        self._taken[kind] = taken + 1
        log.warning("receiver.signature_refused", source=source.public_id, code=error.code)
        if not source.dlq:
            return
        self._waiting.append((source.source_id, error, body[:REFUSED_SAMPLE_BYTES]))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="relay-refused")

    async def flush(self) -> None:
        """Waits until what was offered is written, or given up."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    async def _write(self) -> None:
        try:
            async with self._database.driver() as pg:
                while self._waiting:
                    source_id, error, body = self._waiting.popleft()
                    await inbox.keep_refused(pg, source_id, error.code, error.message, body)
                    self._counters.refused_samples += 1
        except DATABASE_FAILURES as error:
            log.warning("receiver.sample_lost", error=type(error).__name__)
            self._waiting.clear()
