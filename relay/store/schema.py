"""The schema's revision: bringing it to head, and telling whether this build can run on it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.store import partitions
from relay.store.engine import Database

BUILD_REVISION = 1
"""The newest schema revision that this build knows; the number of the last migration."""


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

    Hosts that migrate at once wait for each other. Needs a role that may create a schema. A
    revision below the present one downgrades.
    """
    database = Database(dsn, pool_size=1, application_name="relay-migrate")
    try:
        async with database.begin() as connection:
            await connection.run_sync(_run_alembic, revision)
        if revision != "base":
            async with database.driver() as pg:
                await partitions.ensure_ahead(pg, retention_days=retention_days)
    finally:
        await database.close()


def _run_alembic(connection: Connection, revision: str) -> None:
    config = _alembic_config()
    config.attributes["connection"] = connection
    backwards = revision == "base" or revision.startswith("-")
    (command.downgrade if backwards else command.upgrade)(config, revision)


async def revision_status(connection: AsyncConnection) -> RevisionStatus:
    """Compare the database's schema with what this build needs."""
    try:
        row = (
            await connection.execute(
                text("SELECT revision, min_compatible FROM relay.compatibility")
            )
        ).one_or_none()
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in ("42P01", "3F000"):
            raise
        row = None
    if row is None:
        return RevisionStatus(False, None, "the schema is missing: run `relay migrate`")
    if row.revision < BUILD_REVISION:
        reason = f"the schema is at revision {row.revision}, this build needs {BUILD_REVISION}"
        return RevisionStatus(False, row.revision, f"{reason}: run `relay migrate`")
    if row.min_compatible > BUILD_REVISION:
        reason = f"the schema needs a build of revision {row.min_compatible} or later"
        return RevisionStatus(False, row.revision, f"{reason}, this one is {BUILD_REVISION}")
    return RevisionStatus(True, row.revision, None)
