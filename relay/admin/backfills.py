"""Snapshots: looking at them, starting one, and pausing, resuming or cancelling it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.admin import query
from relay.admin.answers import Refusal
from relay.admin.desk import Desk
from relay.core.listings import listings_of
from relay.settings import Settings
from relay.store import events, ranges, snapshots, sources
from relay.store.engine import driver_of
from relay.store.events import Operator
from relay.store.sealing import Seal
from relay.store.snapshot_plan import Asked, plan
from relay.store.snapshots import Action
from relay.stripe import KeyRefusedError, try_key

# A change waits for the pages in hand, and a page for Stripe.
_CHANGE_SECONDS: Final = 9.0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot with its counts; ``seconds`` is how long it has taken."""

    id: str
    source: str
    state: str
    resources: list[str]
    objects: int
    pages: int
    started_at: datetime
    finished_at: datetime | None
    seconds: float
    last_error: str | None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One resource of it.

    ``share`` is the part of the creation times in question that was read, from 0 to 1; null where
    it is not known. ``limited`` of the ``requests`` were answered 429.
    """

    resource: str
    state: str
    objects: int
    pages: int
    requests: int
    limited: int
    share: float | None
    waits_for: str | None
    last_error: str | None


class Started(msgspec.Struct, frozen=True):
    """A snapshot that was started, and what its key may not read."""

    id: str
    warnings: list[str]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What to read: of a source by its name, by default all of its schema that can be listed."""

    source: str
    resources: list[str] = []
    created_after: str | None = None
    created_before: str | None = None
    per_customer: bool = False


class Backfills:
    """What pages and API do with snapshots."""

    def __init__(self, desk: Desk, settings: Settings) -> None:
        self._desk = desk
        self._settings = settings

    async def page(self, source: str | None, limit: int) -> list[Snapshot]:
        """The newest first."""
        async with self._desk.inbox() as connection:
            found = await snapshots.list_snapshots(connection, source=source, limit=limit)
        return [msgspec.convert(row, Snapshot) for row in found]

    async def show(self, snapshot_id: str) -> tuple[Snapshot, list[Progress]]:
        """One, resource by resource. Raises Refusal when there is none."""
        async with self._desk.inbox() as connection:
            found = await _find(connection, snapshot_id)
            rows = await snapshots.progress(connection, snapshot_id)
        return found, [_progress(row) for row in rows]

    async def is_held_up(self) -> bool:
        """Whether all of them wait until the forwarders have caught up."""
        async with self._desk.inbox() as connection:
            pg = await driver_of(connection)
            return await ranges.has_claimable_work(pg, self._settings.snapshot_queue_rows)

    async def possible(self, source: str) -> list[str]:
        """The resources of a source that Stripe can list. Raises Refusal when there is none."""
        async with self._desk.inbox() as connection:
            if source not in [each.name for each in await sources.list_configs(connection)]:
                raise Refusal(404, f"There is no source {source!r}.")
            config = (await sources.find(connection, source)).config
        found = listings_of(config.resources, config.route_by)
        return sorted(each.name(config.route_by) for each in found)

    async def start(self, choice: Choice, operator: Operator) -> Started:
        """Start one. Raises Refusal and ConfigError, which name what stands in the way."""
        asked = Asked(
            resources=tuple(choice.resources),
            created_after=query.moment("created_after", choice.created_after),
            created_before=query.moment("created_before", choice.created_before),
            per_customer=choice.per_customer,
        )
        async with self._desk.inbox() as connection:
            found = await sources.find(connection, choice.source)
        sealed = found.sealed_stripe_key
        seal = Seal(self._settings.encryption_keys)
        key = None if sealed is None else seal.open(sealed).decode()
        wanted = plan(found.config, key, asked)
        assert key is not None, "there is no plan without a key"
        try:
            warnings = await try_key(
                self._settings.stripe_api_base, key, wanted.listings, wanted.by_parent
            )
        except KeyRefusedError as error:
            raise Refusal(
                409,
                f"Stripe refuses the key of source {found.config.name}: {error.message}. Give it"
                " another one.",
                code="key_refused",
            ) from error
        async with self._desk.inbox(_CHANGE_SECONDS) as connection:
            snapshot_id = await snapshots.start(connection, wanted, found.config.source_id)
            await events.log(connection, operator, "snapshot.start", snapshot_id)
        return Started(snapshot_id, warnings)

    async def change(self, snapshot_id: str, action: Action, operator: Operator) -> Snapshot:
        """Raises Refusal when it is in a state in which that cannot be."""
        async with self._desk.inbox(_CHANGE_SECONDS) as connection:
            await _find(connection, snapshot_id)
            changed = await snapshots.change(connection, snapshot_id, action)
            found = await _find(connection, snapshot_id)
            if not changed:
                raise Refusal(409, f"Snapshot {snapshot_id} is {found.state}: nothing to {action}.")
            await events.log(connection, operator, f"snapshot.{action}", snapshot_id)
        return found


def possible_actions(snapshot: Snapshot) -> list[Action]:
    """What can be done with a snapshot in its state."""
    fitting: dict[str, list[Action]] = {
        "running": ["pause", "cancel"],
        "paused": ["resume", "cancel"],
        "failed": ["resume"],
    }
    return fitting.get(snapshot.state, [])


async def _find(connection: AsyncConnection, snapshot_id: str) -> Snapshot:
    found = await snapshots.find(connection, snapshot_id)
    if found is None:
        raise Refusal(404, f"There is no snapshot {snapshot_id!r}.")
    return msgspec.convert(found, Snapshot)


def _progress(row: dict[str, Any]) -> Progress:
    return msgspec.convert(row | {"share": snapshots.share_read(row)}, Progress)
