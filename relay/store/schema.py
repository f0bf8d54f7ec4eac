"""The schema's revision: bringing it to head, and telling whether this build can run on it."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import msgspec
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.core.errors import ConfigError
from relay.store import partitions, roles
from relay.store.engine import Database, driver_of
from relay.store.trouble import cause_of

BUILD_REVISION = 3
"""The newest schema revision that this build knows; the number of the last migration."""


MIN_SERVER_VERSION = 150_000
"""PostgreSQL 15, the oldest one that the tests run on."""


class RevisionStatus(msgspec.Struct, frozen=True):
    """Whether this build can run on the schema it found, and why not."""

    usable: bool
    revision: int | None
    reason: str | None


def _alembic_config() -> Config:
    # In the wheel the migrations lie inside the package, in a checkout beside it.
    package = Path(__file__).resolve().parent.parent
    inside, beside = package / "migrations", package.parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(inside if inside.is_dir() else beside))
    config.set_main_option("path_separator", "os")
    return config


async def migrate(dsn: str, revision: str = "head", *, retention_days: int = 0) -> None:
    """Bring the schema to ``revision`` and make the first partitions.

    Hosts that migrate at once wait for each other. Needs a role that may create a schema, or the
    one that owns ours. A revision below the present one downgrades. Raises ConfigError for a role
    without the rights, for a server that is too old, for a database that is not in UTF-8, and for
    a way through a pooler.
    """
    database = Database(dsn, pool_size=1, application_name="relay-migrate")
    try:
        if await database.is_pooled():
            raise _through_a_pooler()
        async with database.begin() as connection:
            await _check_server(connection)
            await connection.run_sync(_run_alembic, revision)
            if revision == "head":
                await roles.grant_again(await driver_of(connection))
        if revision != "base":
            async with database.driver() as pg:
                await partitions.ensure_ahead(pg, retention_days=retention_days)
    except (DBAPIError, asyncpg.InsufficientPrivilegeError) as error:
        cause = cause_of(error)
        if isinstance(cause, asyncpg.InsufficientPrivilegeError):
            raise _without_rights(cause) from error
        raise
    finally:
        await database.close()


async def _check_server(connection: AsyncConnection) -> None:
    version = (await connection.execute(text("SHOW server_version_num"))).scalar_one()
    if int(version) < MIN_SERVER_VERSION:
        raise ConfigError(
            f"the server is PostgreSQL {int(version) // 10_000}:"
            f" relay needs {MIN_SERVER_VERSION // 10_000} or later"
        )
    encoding = (await connection.execute(text("SHOW server_encoding"))).scalar_one()
    if encoding != "UTF8":
        raise ConfigError(
            f"the database is encoded in {encoding}, which cannot hold every event:"
            " create one with ENCODING 'UTF8' TEMPLATE template0"
        )


def _through_a_pooler() -> ConfigError:
    # A pooler may end what takes long, and what a session sets there somebody else inherits:
    # a migration may have to do both.
    return ConfigError(
        "RELAY_DATABASE_URL leads through a connection pooler, and migrations need a direct"
        " connection: give `relay migrate` the address of PostgreSQL itself"
    )


def _without_rights(cause: BaseException) -> ConfigError:
    return ConfigError(
        f"the role in RELAY_DATABASE_URL may not migrate ({cause}): migrate as the owner of the"
        " schema relay (where there are roles, as a member of relay_migrator), or, the first time,"
        " GRANT CREATE ON DATABASE to the role"
    )


def _run_alembic(connection: Connection, revision: str) -> None:
    config = _alembic_config()
    config.attributes["connection"] = connection
    backwards = revision == "base" or revision.startswith("-")
    (command.downgrade if backwards else command.upgrade)(config, revision)


async def revision_status(connection: AsyncConnection) -> RevisionStatus:
    """Compare the database's schema with what this build needs."""
    # Asked for first: an error would end the caller's transaction.
    found = text("SELECT to_regclass('relay.compatibility') IS NOT NULL")
    row = None
    if (await connection.execute(found)).scalar_one():
        compatibility = text("SELECT revision, min_compatible FROM relay.compatibility")
        row = (await connection.execute(compatibility)).one_or_none()
    if row is None:
        return RevisionStatus(False, None, "the schema is missing: run `relay migrate`")
    if row.revision < BUILD_REVISION:
        reason = f"the schema is at revision {row.revision}, this build needs {BUILD_REVISION}"
        return RevisionStatus(False, row.revision, f"{reason}: run `relay migrate`")
    if row.min_compatible > BUILD_REVISION:
        reason = f"the schema needs a build of revision {row.min_compatible} or later"
        return RevisionStatus(False, row.revision, f"{reason}, this one is {BUILD_REVISION}")
    return RevisionStatus(True, row.revision, None)
