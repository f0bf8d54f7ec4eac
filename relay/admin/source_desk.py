"""Sources: looking at them, making one, and what an operator changes of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Literal, get_args

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.admin.answers import Refusal
from relay.admin.desk import Desk
from relay.admin.overview import Watch
from relay.admin.source_health import Caution, Health, Pulse, cautions_of, health_of
from relay.core.errors import ConfigError
from relay.core.moments import parse_span
from relay.core.routing import RouteBy
from relay.core.source import Mode, SourceConfig, Topic, Unselected, topics_of
from relay.settings import Settings
from relay.store import source_changes, sources, traffic
from relay.store.events import Operator
from relay.store.sealing import Seal
from relay.store.source_changes import Change, Changed, NotFinished
from relay.store.sources import Forwarding, Source

# A deletion waits for the pages in hand of its snapshots.
_CHANGE_SECONDS: Final = 9.0
GRACE: Final = "24h"
"""How long the old keys of a URL stay good, unless one says otherwise."""

Action = Literal["pause", "resume"]
ACTIONS: Final = get_args(Action)
_FITTING: Final[dict[Forwarding, Action]] = {
    "forwarding": "pause",
    "paused": "resume",
    "halted": "resume",
}


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A source with its settings and how it is doing; of secrets only whether they are there.

    ``webhook_url`` lacks its key, of which only a hash is kept. ``updated_at`` is when a setting or
    a secret was changed last.
    """

    name: str
    id: str
    state: Forwarding
    halted_code: str | None
    halted_error: str | None
    signing_secrets: int
    stripe_api_key: bool
    schema: list[str]
    unselected: Unselected
    default_topic: str
    metadata: bool
    fan_out: list[str]
    dlq: bool
    dlq_topic: str
    topic_prefix: str
    route_by: RouteBy
    tombstones: bool
    tolerance: int
    mode: Mode
    insecure: bool
    created_at: datetime
    updated_at: datetime
    paused_at: datetime | None
    halted_at: datetime | None
    webhook_url: str
    topics: list[Topic]
    health: Health
    warnings: list[Caution]


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of a source's URL, which is answered this once: only its hash is kept."""

    id: str
    name: str
    webhook_url: str
    api_key: str
    old_keys_end_in_seconds: int | None = None


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """A source that was closed, and what was given up with it."""

    id: str
    name: str
    discarded_events: int
    discarded_dead_letters: int


class SourceDesk:
    """What pages and API do with sources."""

    def __init__(self, desk: Desk, settings: Settings, watch: Watch) -> None:
        self._desk = desk
        self._settings = settings
        self._watch = watch
        self._pulse = Pulse(desk)

    @property
    def _seal(self) -> Seal:
        return Seal(self._settings.encryption_keys)

    @property
    def knows_its_url(self) -> bool:
        """Whether the URLs are what Stripe can call, and not the address of a machine."""
        return self._settings.public_url is not None

    async def list_all(self) -> list[Shown]:
        """All of them, the oldest first."""
        async with self._desk.inbox() as connection:
            found = await sources.list_all(connection)
        return await self._shown(found)

    async def show(self, name_or_id: str) -> Shown:
        """One. Raises Refusal when there is none."""
        return (await self._shown([await self.find(name_or_id)]))[0]

    async def find(self, name_or_id: str) -> Source:
        """One as it is stored. Raises Refusal when there is none."""
        async with self._desk.inbox() as connection:
            return await _find(connection, name_or_id)

    async def newest_key(self, source: str) -> int | None:
        """The number of the key that was made last: another one once it was rotated."""
        async with self._desk.inbox() as connection:
            found = await _find(connection, source)
            return await sources.newest_key(connection, found.config.source_id)

    async def create(self, wanted: Change, name: str, operator: Operator) -> NewKey:
        """Make one. Raises ConfigError that names what is wrong with it."""
        config = SourceConfig(source_id=0, public_id="", name=name)
        async with self._desk.inbox(_CHANGE_SECONDS) as connection:
            made, key = await source_changes.create(
                connection, config, wanted, self._seal, operator
            )
        return self._with_key(made, key)

    async def update(
        self, name_or_id: str, wanted: Change, operator: Operator, *, seen: str | None = None
    ) -> Changed:
        """Change one. Raises Refusal and ConfigError, which name what stands in the way.

        ``seen`` is when it had been changed last for whoever asks for this, as ``version_of`` has
        it; nothing is changed when somebody else has been there since.
        """
        async with self._desk.inbox(_CHANGE_SECONDS) as connection:
            found = await _find(connection, name_or_id, lock=True)
            if seen is not None and seen != version_of(found):
                raise Refusal(
                    409,
                    f"Source {found.config.name} was changed by somebody else meanwhile: compare"
                    " it, and send this again if it shall be so.",
                )
            done = await source_changes.update(connection, found, wanted, self._seal, operator)
            if not done.names:
                raise Refusal(409, f"Source {found.config.name} is like that already.")
        return done

    async def set_forwarding(self, name_or_id: str, action: Action, operator: Operator) -> Source:
        """Raises Refusal when it is in a state in which that cannot be."""
        async with self._desk.inbox(_CHANGE_SECONDS) as connection:
            found = await _find(connection, name_or_id, lock=True)
            if possible_action(found.state) != action:
                raise Refusal(
                    409, f"Source {found.config.name} is {found.state}: nothing to {action}."
                )
            return await source_changes.set_forwarding(connection, found, action, operator)

    async def rotate_key(
        self, name_or_id: str, grace: str, operator: Operator, *, newest: str | None = None
    ) -> NewKey:
        """A new key. Raises Refusal, also when ``newest`` is not the number of the last one."""
        span = parse_span(grace)
        if span is None:
            raise Refusal(400, f"grace: {grace!r} is no span of time: write 30m, 24h, 3d or 0.")
        async with self._desk.inbox(_CHANGE_SECONDS) as connection:
            found = await _find(connection, name_or_id, lock=True)
            last = await sources.newest_key(connection, found.config.source_id)
            if newest is not None and newest != str(last or ""):
                raise Refusal(
                    409,
                    f"The key of source {found.config.name} was rotated since the page was loaded:"
                    " load it again if there shall be yet another one.",
                )
            key = await source_changes.rotate_key(connection, found, span, operator)
        return self._with_key(found, key, span)

    async def delete(
        self, name_or_id: str, confirm: str, operator: Operator, *, discard_pending: bool
    ) -> Deleted:
        """Close one. Raises Refusal unless ``confirm`` is its name, and nothing is unfinished."""
        async with self._desk.inbox(_CHANGE_SECONDS) as connection:
            found = await _find(connection, name_or_id, lock=True)
            if confirm.strip() != found.config.name:
                raise Refusal(400, f"confirm: write the name of the source, {found.config.name!r}.")
            try:
                gone = await source_changes.delete(
                    connection, found, operator, discard_pending=discard_pending
                )
            except NotFinished as error:
                why = error.message[:1].upper() + error.message[1:]
                raise Refusal(
                    409,
                    f"{why}: let them finish, or have them given up with it (discard_pending).",
                    code=error.code,
                ) from error
        return Deleted(
            id=gone.source.public_id,
            name=gone.source.name,
            discarded_events=gone.events,
            discarded_dead_letters=gone.dead_letters,
        )

    async def _shown(self, found: list[Source]) -> list[Shown]:
        lately = await self._pulse.lately()
        figures = {each.id: each for each in (await self._watch.overview()).sources or ()}
        async with self._desk.inbox() as connection:
            keys = {each.source: each for each in await traffic.keys(connection)}
        shown = []
        for source in found:
            config = source.config
            health = health_of(source, figures.get(config.public_id), lately, keys.get(config.name))
            url = self._settings.webhook_url(config.public_id, None)
            shown.append(_show(source, health, cautions_of(source, health, lately), url))
        return shown

    def _with_key(self, source: Source, key: str, grace: timedelta | None = None) -> NewKey:
        return NewKey(
            id=source.config.public_id,
            name=source.config.name,
            webhook_url=self._settings.webhook_url(source.config.public_id, key),
            api_key=key,
            old_keys_end_in_seconds=None if grace is None else int(grace.total_seconds()),
        )


def possible_action(state: Forwarding) -> Action:
    """What can be done with the forwarding of a source in its state."""
    return _FITTING[state]


def version_of(source: Source) -> str:
    """Tells whether a source was changed since."""
    return source.updated_at.isoformat()


async def _find(connection: AsyncConnection, name_or_id: str, *, lock: bool = False) -> Source:
    try:
        return await sources.find(connection, name_or_id, lock=lock)
    except ConfigError as error:
        raise Refusal(404, f"There is no source {name_or_id!r}.") from error


def _show(source: Source, health: Health, warnings: list[Caution], url: str) -> Shown:
    config = source.config
    return Shown(
        name=config.name,
        id=config.public_id,
        state=source.state,
        halted_code=source.halted_code,
        halted_error=source.halted_error,
        signing_secrets=len(source.sealed_secrets),
        stripe_api_key=source.sealed_stripe_key is not None,
        schema=list(config.resources),
        unselected=config.unselected,
        default_topic=config.default_topic,
        metadata=config.metadata,
        fan_out=list(config.fan_out),
        dlq=config.dlq,
        dlq_topic=config.dlq_topic,
        topic_prefix=config.topic_prefix,
        route_by=config.route_by,
        tombstones=config.tombstones,
        tolerance=config.tolerance,
        mode=config.mode,
        insecure=config.insecure,
        created_at=source.created_at,
        updated_at=source.updated_at,
        paused_at=source.paused_at,
        halted_at=source.halted_at,
        webhook_url=url,
        topics=topics_of(config),
        health=health,
        warnings=warnings,
    )
