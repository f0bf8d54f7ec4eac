"""What the receiver has to know to let a request in: sources, keys, secrets and the time."""

from __future__ import annotations

import msgspec
from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.core.errors import ConfigError
from relay.core.source import SourceConfig
from relay.store.schema import require_runnable
from relay.store.sealing import Seal
from relay.store.sources import list_verifiers, open_secrets
from relay.store.tables import api_key
from relay.store.vitals import clock_offset_seconds


class Admitted(msgspec.Struct, frozen=True):
    """A source that may receive. Its secrets are in the clear: never log it."""

    config: SourceConfig
    key_sha256s: tuple[bytes, ...]
    signing_secrets: tuple[str, ...] | None
    """None: a stored secret cannot be opened with the encryption keys of this process."""

    def __repr__(self) -> str:
        return f"Admitted({self.config.public_id})"


class Admission(msgspec.Struct, frozen=True):
    """All of them by public id, and how far PostgreSQL's clock is ahead of ours, in seconds."""

    sources: dict[str, Admitted]
    clock_offset: float


async def load(connection: AsyncConnection, seal: Seal) -> Admission:
    """Read everything anew; keys that have expired are left out.

    Raises IncompatibleSchemaError: what this build would store there nobody may rely on.
    """
    await require_runnable(connection)
    keys: dict[int, list[bytes]] = {}
    good = or_(api_key.c.expires_at.is_(None), api_key.c.expires_at > func.now())
    for row in await connection.execute(select(api_key.c.source_id, api_key.c.sha256).where(good)):
        keys.setdefault(row.source_id, []).append(row.sha256)
    admitted = {}
    for config, sealed in await list_verifiers(connection):
        try:
            secrets = open_secrets(sealed, seal)
        except ConfigError:
            # This source cannot be verified, which is no reason to refuse all others.
            secrets = None
        admitted[config.public_id] = Admitted(
            config, tuple(keys.get(config.source_id, ())), secrets
        )
    return Admission(admitted, await clock_offset_seconds(connection))
