"""Sources: their settings, keys and secrets, and whether they are forwarded."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from sqlalchemy import Column, Row, Select, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.core.errors import ConfigError
from relay.core.routing import LANES
from relay.core.source import SourceConfig
from relay.store.sealing import Seal
from relay.store.tables import api_key, dead_letter, lane, queue, source
from relay.store.text import is_storable

# The settings that are columns of the same name; the keys of create() and update().
SETTINGS = (
    "name",
    "resources",
    "unselected",
    "default_topic",
    "metadata",
    "fan_out",
    "dlq",
    "dlq_topic",
    "topic_prefix",
    "route_by",
    "tombstones",
    "tolerance",
    "mode",
    "insecure",
)

Forwarding = Literal["forwarding", "paused", "halted"]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A source as the database holds it. Secrets stay sealed; see ``open_secrets``."""

    config: SourceConfig
    created_at: datetime
    updated_at: datetime
    paused_at: datetime | None
    halted_at: datetime | None
    halted_code: str | None
    halted_error: str | None
    halted_number: int | None
    sealed_secrets: tuple[bytes, ...]
    sealed_stripe_key: bytes | None

    @property
    def state(self) -> Forwarding:
        """What becomes of its events; it receives in every state."""
        if self.halted_at is not None:
            return "halted"
        return "paused" if self.paused_at is not None else "forwarding"


class Unfinished(msgspec.Struct, frozen=True):
    """What a source still has to do."""

    queued: int
    dead: int


def new_api_key() -> str:
    """The secret of a webhook URL: 256 bits."""
    return "relay_" + secrets.token_urlsafe(32)


def _sha256(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


async def create(
    connection: AsyncConnection,
    config: SourceConfig,
    *,
    sealed_secrets: Sequence[bytes],
    sealed_stripe_key: bytes | None,
) -> tuple[Source, str]:
    """Make a source with its lanes and a first key; returns the key, which is not kept.

    ``config.source_id`` and ``public_id`` are given by the database. Raises ConfigError when the
    name is taken.
    """
    values = _columns(config, SETTINGS)
    values |= {
        "public_id": "src_" + secrets.token_hex(12),
        "signing_secrets": list(sealed_secrets),
        "stripe_api_key": sealed_stripe_key,
    }
    try:
        row = (await connection.execute(insert(source).values(values).returning(source))).one()
    except IntegrityError as error:
        raise _refusal(config, error) from error
    await connection.execute(
        insert(lane), [{"source_id": row.id, "lane": number} for number in range(LANES)]
    )
    return _source(row), await add_key(connection, row.id)


async def add_key(connection: AsyncConnection, source_id: int) -> str:
    """Give a source one more key and return it; only its hash is stored."""
    key = new_api_key()
    await connection.execute(insert(api_key).values(source_id=source_id, sha256=_sha256(key)))
    return key


async def newest_key(connection: AsyncConnection, source_id: int) -> int | None:
    """The number of the key that was made last."""
    newest = select(func.max(api_key.c.id)).where(api_key.c.source_id == source_id)
    found: int | None = (await connection.execute(newest)).scalar_one()
    return found


async def rotate_key(connection: AsyncConnection, source_id: int, grace: timedelta) -> str:
    """A new key; the present ones end after the grace time (those that end earlier stay so)."""
    ends = func.now() + grace
    await connection.execute(
        update(api_key)
        .where(api_key.c.source_id == source_id)
        .where(or_(api_key.c.expires_at.is_(None), api_key.c.expires_at > ends))
        .values(expires_at=ends)
    )
    return await add_key(connection, source_id)


async def list_all(connection: AsyncConnection) -> list[Source]:
    """Every source that is not deleted, the oldest first."""
    rows = await connection.execute(_present().order_by(source.c.id))
    return [_source(row) for row in rows]


async def list_configs(connection: AsyncConnection) -> list[SourceConfig]:
    """The settings of every source that is not deleted, for roles that may not read its secrets."""
    rows = await connection.execute(_without(source.c.signing_secrets, source.c.stripe_api_key))
    return [_config(row) for row in rows]


async def list_changes(connection: AsyncConnection) -> list[tuple[SourceConfig, datetime]]:
    """The same, with when they were last changed."""
    rows = await connection.execute(_without(source.c.signing_secrets, source.c.stripe_api_key))
    return [(_config(row), row.updated_at) for row in rows]


async def list_verifiers(
    connection: AsyncConnection,
) -> list[tuple[SourceConfig, tuple[bytes, ...]]]:
    """The same with the sealed signing secrets, for a role that may not read the Stripe keys."""
    rows = await connection.execute(_without(source.c.stripe_api_key))
    return [(_config(row), tuple(row.signing_secrets)) for row in rows]


async def list_api_users(
    connection: AsyncConnection,
) -> list[tuple[SourceConfig, bytes | None]]:
    """The same with the sealed Stripe keys, for a role that may not read the signing secrets."""
    rows = await connection.execute(_without(source.c.signing_secrets))
    return [(_config(row), row.stripe_api_key) for row in rows]


async def find(connection: AsyncConnection, name_or_id: str, *, lock: bool = False) -> Source:
    """A source by its name or public id. Raises ConfigError, with the names that there are."""
    statement = _present().where(or_(source.c.name == name_or_id, source.c.public_id == name_or_id))
    if lock:
        statement = statement.with_for_update()
    row = None
    if is_storable(name_or_id):
        row = (await connection.execute(statement)).one_or_none()
    if row is None:
        names = [each.config.name for each in await list_all(connection)]
        known = ", ".join(names) if names else "there are none yet: `relay source create`"
        raise ConfigError(f"no source named {name_or_id!r}; known sources: {known}")
    return _source(row)


async def names(connection: AsyncConnection) -> set[str]:
    """The names of all sources, deleted ones included: their events are still there."""
    return set((await connection.execute(select(source.c.name))).scalars())


async def update_settings(
    connection: AsyncConnection,
    source_id: int,
    config: SourceConfig,
    *,
    sealed_secrets: Sequence[bytes],
    sealed_stripe_key: bytes | None,
) -> None:
    """Store all settings of a source. Raises ConfigError when the name is taken."""
    values = _columns(config, SETTINGS)
    values |= {"signing_secrets": list(sealed_secrets), "stripe_api_key": sealed_stripe_key}
    try:
        await connection.execute(
            update(source).where(source.c.id == source_id).values(**values, updated_at=func.now())
        )
    except IntegrityError as error:
        raise _refusal(config, error) from error


async def pause(connection: AsyncConnection, source_id: int) -> None:
    """Stop forwarding, never receiving."""
    await connection.execute(
        update(source)
        .where(source.c.id == source_id)
        .values(paused_at=func.coalesce(source.c.paused_at, func.now()))
    )


async def resume(connection: AsyncConnection, source_id: int) -> None:
    """Forward again, after a pause or a halt; the row it halted at is tried again."""
    await connection.execute(
        update(source)
        .where(source.c.id == source_id)
        .values(
            paused_at=None, halted_at=None, halted_code=None, halted_error=None, halted_number=None
        )
    )


async def unfinished(connection: AsyncConnection, source_id: int) -> Unfinished:
    """Count what a deletion would give up: queued events and open dead letters."""
    queued = select(func.count()).where(queue.c.source_id == source_id, queue.c.kind == 0)
    dead = select(func.count()).where(
        dead_letter.c.source_id == source_id,
        dead_letter.c.inbox_id.is_not(None),
        dead_letter.c.replayed_at.is_(None),
        dead_letter.c.discarded_at.is_(None),
    )
    return Unfinished(
        (await connection.execute(queued)).scalar_one(),
        (await connection.execute(dead)).scalar_one(),
    )


async def delete(connection: AsyncConnection, source_id: int) -> None:
    """Close a source: its URL answers 401 from now on, its name is free, its evidence stays.

    The caller has settled what was unfinished, see ``events.discard_source``.
    """
    await connection.execute(api_key.delete().where(api_key.c.source_id == source_id))
    await connection.execute(
        update(source)
        .where(source.c.id == source_id)
        .values(deleted_at=func.now(), signing_secrets=[], stripe_api_key=None, insecure=True)
    )


async def renew_secrets(connection: AsyncConnection, seal: Seal) -> int:
    """Seal every stored secret anew with the first key; returns how many there are.

    Raises ConfigError when one cannot be opened with any key; then nothing may be committed.
    """
    rows = await connection.execute(
        select(source.c.id, source.c.signing_secrets, source.c.stripe_api_key)
        .where(source.c.deleted_at.is_(None))
        .order_by(source.c.id)
        .with_for_update()
    )
    renewed = 0
    for row in rows.all():
        secrets_again = [seal.renew(sealed) for sealed in row.signing_secrets]
        key_again = None if row.stripe_api_key is None else seal.renew(row.stripe_api_key)
        await connection.execute(
            update(source)
            .where(source.c.id == row.id)
            .values(signing_secrets=secrets_again, stripe_api_key=key_again)
        )
        renewed += len(secrets_again) + (key_again is not None)
    return renewed


def open_secrets(sealed_secrets: Sequence[bytes], seal: Seal) -> tuple[str, ...]:
    """The signing secrets in the clear."""
    return tuple(seal.open(sealed).decode() for sealed in sealed_secrets)


def _present() -> Select[Any]:
    return select(source).where(source.c.deleted_at.is_(None))


def _without(*columns: Column[Any]) -> Select[Any]:
    """The sources that are not deleted, the oldest first, some columns left out."""
    kept = [column for column in source.c if column not in set(columns)]
    return _present().with_only_columns(*kept).order_by(source.c.id)


def _refusal(config: SourceConfig, error: IntegrityError) -> Exception:
    if "source_name_key" in str(error.orig):
        return ConfigError(
            f"a source named {config.name!r} exists already: choose another name", setting="NAME"
        )
    if "source_verified_check" in str(error.orig):
        return ConfigError(
            "without a signing secret a source has to be --insecure", setting="--insecure"
        )
    return error


def _columns(config: SourceConfig, names: Sequence[str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name in names:
        value = getattr(config, name)
        values[_key(name)] = list(value) if isinstance(value, tuple) else value
    return values


def _key(name: str) -> str:
    # A column cannot be reached as `metadata`: a SQLAlchemy table has an attribute of that name.
    return "include_metadata" if name == "metadata" else name


def _config(row: Row[Any]) -> SourceConfig:
    settings = {name: row._mapping[source.c[_key(name)]] for name in SETTINGS}
    settings |= {"source_id": row.id, "public_id": row.public_id}
    return msgspec.convert(settings, SourceConfig)


def _source(row: Row[Any]) -> Source:
    values = {column.key: row._mapping[column] for column in source.c}
    return Source(
        config=_config(row),
        created_at=values["created_at"],
        updated_at=values["updated_at"],
        paused_at=values["paused_at"],
        halted_at=values["halted_at"],
        halted_code=values["halted_code"],
        halted_error=values["halted_error"],
        halted_number=values["halted_number"],
        sealed_secrets=tuple(values["signing_secrets"]),
        sealed_stripe_key=values["stripe_api_key"],
    )
