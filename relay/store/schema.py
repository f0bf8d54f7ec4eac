"""The schema's revision: bringing it to one, and telling whether this build can run on it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import msgspec
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.core.errors import ConfigError, RelayError
from relay.store import partitions, roles
from relay.store.engine import Database, driver_of
from relay.store.trouble import cause_of

BUILD_REVISION = 4
"""The newest schema revision that this build knows; the number of the last migration."""

MIN_SERVER_VERSION = 150_000
"""PostgreSQL 15, the oldest one that the tests run on."""

PATIENCE_SECONDS = 600.0
"""How long ``migrate`` tries again while others hold the locks that it needs."""

# One lock for every host that migrates; the number is arbitrary and must never change.
_MIGRATION_LOCK = 0x72656C6179
# Alembic keeps what it works on in a module: one migration at a time in a process.
_in_this_process = threading.Lock()
_LONGEST_PAUSE_SECONDS = 5.0
_PASSING = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)


class IncompatibleSchemaError(RelayError):
    """This build cannot run on the schema that it found."""

    default_code = "incompatible_schema"


class SchemaBusyError(RelayError):
    """Others held the locks that a migration needs, for all the time that it waited."""

    default_code = "schema_busy"


class RevisionStatus(msgspec.Struct, frozen=True):
    """Whether this build can run on the schema it found, and why not.

    ``usable``: it is what the build was made for, or newer and still fits. ``runs``: receiving and
    forwarding work, which is so one revision below, too. ``revision`` is None without a schema.
    """

    usable: bool
    runs: bool
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


def revision_names() -> dict[int, str]:
    """What each revision that this build knows brought, by number, the first one first."""
    known = ScriptDirectory.from_config(_alembic_config()).walk_revisions()
    return {int(each.revision): each.doc.rstrip(".") for each in reversed(list(known))}


async def migrate(
    dsn: str,
    revision: str = "head",
    *,
    retention_days: int = 0,
    patience_seconds: float = PATIENCE_SECONDS,
    on_wait: Callable[[str], None] = lambda why: None,
) -> None:
    """Bring the schema to ``revision`` and make the first partitions.

    All of it or nothing, up or down: ``revision`` is ``head``, ``base`` or that of a migration
    (``0001``). A schema that is newer than this build is left alone by ``head``.

    Hosts that migrate at once wait for each other. Nobody waits long for us: where a lock is not to
    be had in a moment, everything is given back and tried again later, for ``patience_seconds``,
    and ``on_wait`` is told who holds it. Needs a role that may create a schema, or the one that
    owns ours. Raises SchemaBusyError when the patience ends, ConfigError for a role without the
    rights, for a revision that is not known, for a server that is too old, for a database that is
    not in UTF-8, and for a way through a pooler.
    """
    database = Database(dsn, pool_size=1, application_name="relay-migrate")
    try:
        if await database.is_pooled():
            raise _through_a_pooler()
        async with _alone_in_this_process():
            await _with_patience(database, revision, retention_days, patience_seconds, on_wait)
    except (DBAPIError, asyncpg.InsufficientPrivilegeError) as error:
        cause = cause_of(error)
        if isinstance(cause, asyncpg.InsufficientPrivilegeError):
            raise _without_rights(cause) from error
        raise
    finally:
        await database.close()


@asynccontextmanager
async def _alone_in_this_process() -> AsyncIterator[None]:
    # Asked again and again: whoever holds it may run in this very event loop.
    while not _in_this_process.acquire(blocking=False):  # noqa: ASYNC110 - not an asyncio lock
        await asyncio.sleep(0.02)
    try:
        yield
    finally:
        _in_this_process.release()


def _passes(cause: BaseException) -> bool:
    """Whether the same may succeed in a moment.

    Two that change one row of the catalog at once, as grants do, are told so by a word that has no
    code of its own.
    """
    return isinstance(cause, _PASSING) or "tuple concurrently updated" in str(cause)


async def _with_patience(
    database: Database,
    revision: str,
    retention_days: int,
    patience_seconds: float,
    on_wait: Callable[[str], None],
) -> None:
    loop = asyncio.get_running_loop()
    ends = loop.time() + patience_seconds
    pause = 0.25
    while True:
        try:
            return await _bring(database, revision, retention_days)
        except (DBAPIError, asyncpg.PostgresError) as error:
            if not _passes(cause_of(error)):
                raise
            why = f"a lock is not to be had{await _who_holds_locks(database)}"
            if loop.time() + pause > ends:
                raise SchemaBusyError(
                    f"{why}: nothing was changed in {patience_seconds:g} s of trying;"
                    " end that transaction, or migrate again when it has ended"
                ) from error
        on_wait(why)
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


async def _bring(database: Database, revision: str, retention_days: int) -> None:
    async with database.begin() as connection:
        await _check_server(connection)
        is_our_own = await connection.run_sync(_run_alembic, revision)
        if is_our_own:
            await roles.grant_again(await driver_of(connection))
    if revision != "base":
        async with database.driver() as pg:
            await partitions.ensure_ahead(pg, retention_days=retention_days)


async def _who_holds_locks(database: Database) -> str:
    """Words for the oldest transaction with a lock on one of our tables, if we may see it."""
    async with database.begin() as connection:
        found = await connection.execute(
            text(
                """
                SELECT a.pid, coalesce(nullif(a.application_name, ''), a.usename, '?') AS who,
                       a.state,
                       extract(epoch FROM clock_timestamp() - a.xact_start)::integer AS seconds
                FROM pg_stat_activity a
                WHERE a.xact_start IS NOT NULL AND a.pid <> pg_backend_pid() AND a.pid IN (
                    SELECT l.pid FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
                    WHERE l.granted AND c.relnamespace = to_regnamespace('relay') AND l.database =
                        (SELECT oid FROM pg_database WHERE datname = current_database()))
                ORDER BY a.xact_start LIMIT 1
                """
            )
        )
        row = found.one_or_none()
    if row is None:
        return ""
    return (
        f"; the oldest transaction on these tables is that of backend {row.pid}"
        f" ({row.who}, {row.state}, {row.seconds} s)"
    )


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


def hold_migration_lock(connection: Connection) -> None:
    """Until the end of the transaction nobody else migrates; waits for whoever does."""
    # However long that takes: the other one is making progress.
    connection.execute(text("SET LOCAL lock_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})


def _run_alembic(connection: Connection, revision: str) -> bool:
    """Whether the schema is at this build's own revision afterwards."""
    hold_migration_lock(connection)
    found = connection.scalar(text("SELECT to_regclass('relay.alembic_version') IS NOT NULL"))
    present = (
        connection.scalar(text("SELECT version_num FROM relay.alembic_version")) if found else 0
    )
    number = int(present or 0)
    if number > BUILD_REVISION:
        if revision == "head":
            return False
        raise ConfigError(
            f"the schema is at revision {number}, and this build knows none above"
            f" {BUILD_REVISION}: go down with a build that knows it"
        )
    if revision not in ("head", "base") and int(revision) not in revision_names():
        raise ConfigError(f"this build knows no revision {int(revision)}: {_known()}")
    config = _alembic_config()
    config.attributes["connection"] = connection
    backwards = revision == "base" or (revision != "head" and int(revision) < number)
    (command.downgrade if backwards else command.upgrade)(config, revision)
    return revision == "head" or (revision != "base" and int(revision) == BUILD_REVISION)


def _known() -> str:
    numbers = list(revision_names())
    return f"there are {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else "there is 1"


async def revision_status(connection: AsyncConnection) -> RevisionStatus:
    """Compare the database's schema with what this build needs."""
    # Asked for first: an error would end the caller's transaction.
    found = text("SELECT to_regclass('relay.compatibility') IS NOT NULL")
    row = None
    if (await connection.execute(found)).scalar_one():
        compatibility = text("SELECT revision, min_compatible FROM relay.compatibility")
        row = (await connection.execute(compatibility)).one_or_none()
    if row is None:
        return RevisionStatus(False, False, None, "the schema is missing: run `relay migrate`")
    if row.revision < BUILD_REVISION:
        reason = f"the schema is at revision {row.revision}, this build needs {BUILD_REVISION}"
        runs = row.revision == BUILD_REVISION - 1
        return RevisionStatus(False, runs, row.revision, f"{reason}: run `relay migrate`")
    if row.min_compatible > BUILD_REVISION:
        reason = f"the schema needs a build of revision {row.min_compatible} or later"
        return RevisionStatus(False, False, row.revision, f"{reason}, this one is {BUILD_REVISION}")
    return RevisionStatus(True, True, row.revision, None)


async def require_runnable(connection: AsyncConnection) -> None:
    """Raises IncompatibleSchemaError when this build must neither receive nor forward."""
    status = await revision_status(connection)
    if not status.runs:
        raise IncompatibleSchemaError(status.reason)
