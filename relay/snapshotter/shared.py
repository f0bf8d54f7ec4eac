"""What the readers of one process have in common: the ways to Stripe, their rates, the counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from hashlib import sha256

import msgspec

from relay.core.errors import ConfigError
from relay.core.source import SourceConfig
from relay.settings import Settings
from relay.snapshotter.turns import RateKey, Turns
from relay.store import ranges, sources
from relay.store.engine import Database
from relay.store.sealing import Seal
from relay.stripe import StripeApi

_SOURCES_SECONDS = 1.0
_QUEUE_SECONDS = 0.2


class Counters:
    """Plain numbers since the start of the process."""

    def __init__(self) -> None:
        self.pages: Counter[str] = Counter()
        """Pages stored, by resource."""
        self.objects: Counter[str] = Counter()
        """Objects that were new to their snapshot, by resource."""
        self.requests = 0
        """Requests to the API, failed ones and repetitions included."""
        self.unanswered: Counter[str] = Counter()
        """Requests without a page at the end, by verdict."""
        self.failures = 0
        """Resources and snapshots that were given up, until somebody resumes them."""
        self.backends_ended = 0
        """Transactions of frozen readers that were ended."""


class Account(msgspec.Struct, frozen=True):
    """The way to the API of one source."""

    config: SourceConfig
    api: StripeApi
    rate_key: RateKey


class Shared:
    """What the readers of one process have in common."""

    def __init__(self, database: Database, seal: Seal, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self.counters = Counters()
        self.turns = Turns(database, settings.stripe_rate_share)
        self._seal = seal
        self._accounts: dict[int, Account | str] = {}
        self._sealed: dict[int, bytes | None] = {}
        self._sources_at = -_SOURCES_SECONDS
        self._queue_at = -_QUEUE_SECONDS
        self._queue_full = False
        self._loading = asyncio.Lock()

    async def account(self, source_id: int) -> Account | str:
        """The way to a source's API, or why there is none."""
        async with self._loading:
            now = asyncio.get_running_loop().time()
            if now - self._sources_at >= _SOURCES_SECONDS or source_id not in self._accounts:
                await self._load()
                self._sources_at = now
        return self._accounts.get(source_id, "the source was deleted")

    async def _load(self) -> None:
        async with self.database.begin() as connection:
            found = await sources.list_api_users(connection)
        accounts: dict[int, Account | str] = {}
        for config, sealed in found:
            source_id = config.source_id
            known = self._accounts.get(source_id)
            if isinstance(known, Account) and self._sealed.get(source_id) == sealed:
                accounts[source_id] = msgspec.structs.replace(known, config=config)
            else:
                accounts[source_id] = self._connect(config, sealed)
            self._sealed[source_id] = sealed
        gone = [
            each.api
            for source_id, each in self._accounts.items()
            if isinstance(each, Account)
            and (not isinstance(kept := accounts.get(source_id), Account) or kept.api != each.api)
        ]
        self._accounts = accounts
        for api in gone:
            await api.close()

    def _connect(self, config: SourceConfig, sealed: bytes | None) -> Account | str:
        if sealed is None:
            return (
                f"source {config.name} has no Stripe key any more:"
                f" `relay source update {config.name} --stripe-api-key …`"
            )
        try:
            key = self._seal.open(sealed).decode()
            api = StripeApi(
                self.settings.stripe_api_base,
                key,
                connections=self.settings.snapshot_connections,
                timeout_seconds=self.settings.stripe_timeout_seconds,
            )
        except ConfigError as error:
            return error.message
        name = sha256(b"relay.rate:" + key.encode()).hexdigest()[:16]
        return Account(config, api, RateKey(name, api.mode))

    @property
    def is_held_up(self) -> bool:
        """Whether fetching pauses for the queue, as of the last look."""
        return self._queue_full

    async def has_room(self) -> bool:
        """Whether the forwarders keep up: live events must not stand behind a snapshot."""
        now = asyncio.get_running_loop().time()
        if now - self._queue_at >= _QUEUE_SECONDS:
            async with self.database.driver() as pg:
                self._queue_full = await ranges.has_claimable_work(
                    pg, self.settings.snapshot_queue_rows
                )
            # Where a look takes long, it is a small part of the database's time all the same.
            took = asyncio.get_running_loop().time() - now
            self._queue_at = now + 5 * took
        return not self._queue_full

    async def close(self) -> None:
        for each in self._accounts.values():
            if isinstance(each, Account):
                await each.api.close()
