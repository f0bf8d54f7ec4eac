"""When Stripe may be asked: turns at the clocks that all processes share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import asyncpg
import msgspec

from relay.core.stripe_key import KeyMode
from relay.store import rates
from relay.store.engine import Database
from relay.store.failures import is_outage

ACCOUNT_RATE: Mapping[KeyMode, float] = {"live": 100.0, "test": 25.0}
ENDPOINT_RATE = 25.0
"""Stripe's own limits in requests a second, see https://docs.stripe.com/rate-limits."""

LONGEST_TURN_SECONDS: Final = 1.0
"""A turn that comes later than this is not waited for, and not reserved."""


class RateKey(msgspec.Struct, frozen=True):
    """By what a rate is shared: sources with the same Stripe key share it."""

    name: str
    """A hash of that key."""
    mode: KeyMode


class NotNowError(Exception):
    """The turn of a request comes so late that its range is better given back."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"in {seconds:.1f} s")
        self.seconds = seconds


class Turns:
    """Of one process, which may use `share` of Stripe's limits together with all others.

    Nothing here may wait for a connection to the database while a range is locked, unless it says
    for how long: behind a pooler all of its servers may be taken by readers that wait likewise.
    """

    def __init__(self, database: Database, share: float) -> None:
        self._database = database
        self._share = share
        self._clocks: set[tuple[str, str]] = set()

    async def reserve(self, pg: asyncpg.Connection, key: RateKey, path: str) -> float:
        """Seconds until one request may be sent; above LONGEST_TURN_SECONDS it must not be."""
        if (key.name, path) not in self._clocks:
            await rates.prepare(pg, key.name, [path])
            self._clocks.add((key.name, path))
        return await rates.reserve(
            pg,
            key.name,
            {
                rates.ALL_ENDPOINTS: ACCOUNT_RATE[key.mode] * self._share,
                path: ENDPOINT_RATE * self._share,
            },
            LONGEST_TURN_SECONDS,
        )

    async def wait(self, key: RateKey, path: str) -> None:
        """Wait for a turn with a range in hand. Raises NotNowError when that takes too long."""
        try:
            async with self._database.driver(LONGEST_TURN_SECONDS) as pg:
                seconds = await self.reserve(pg, key, path)
        except Exception as error:
            if not is_outage(error):
                raise
            raise NotNowError(LONGEST_TURN_SECONDS) from error
        if seconds > LONGEST_TURN_SECONDS:
            raise NotNowError(seconds)
        await asyncio.sleep(seconds)

    async def slow_down(self, key: RateKey, path: str, reason: str | None) -> None:
        """Stripe was asked too fast: by all of the account together, or at this endpoint."""
        endpoint = rates.ALL_ENDPOINTS if (reason or "").startswith("global") else path
        async with self._database.driver() as pg:
            await rates.slow_down(pg, key.name, endpoint)
