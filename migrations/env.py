"""Alembic's entry: online, in one transaction, on the connection that `relay migrate` hands in."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from relay.store import ownership
from relay.store.engine import Database
from relay.store.partitions import is_partition_name
from relay.store.redaction_tables import REDACTION_TABLES
from relay.store.schema import hold_migration_lock
from relay.store.seal_table import SEAL_TABLES
from relay.store.snapshot_tables import SNAPSHOT_TABLES
from relay.store.tables import metadata

DEPENDENT_OBJECTS = "2BP01"

# The tables of all modules are in one collection.
assert all(
    table.metadata is metadata for table in (*SNAPSHOT_TABLES, *SEAL_TABLES, *REDACTION_TABLES)
)


def include_name(name: str | None, type_: str, _parent: Any) -> bool:
    """Only our schema; the partitions come and go by the hand of the housekeeping."""
    if type_ == "schema":
        return name == "relay"
    if type_ == "table":
        return name is not None and not is_partition_name(name)
    return True


def run(connection: Connection) -> None:
    hold_migration_lock(connection)
    # A statement that waits for a lock makes every insert wait behind it. Half a second is what a
    # sender does not notice, and less than after what PostgreSQL looks for deadlocks (1 s), of
    # which it might end the insert. `migrate` tries again.
    connection.execute(text("SET LOCAL lock_timeout = '500ms'"))
    # A role that is called like our schema has it in its search path, and autogenerate would then
    # take every table for one without a schema.
    connection.execute(text("SET LOCAL search_path = public"))
    connection.dialect.default_schema_name = "public"
    ownership.act_as_migrator(connection)
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_schemas=True,
        include_name=include_name,
        version_table_schema="relay",
        compare_type=True,
        compare_server_default=True,
    )
    context.run_migrations()
    if not context.get_context().get_current_heads():
        leave_nothing(connection)


def leave_nothing(connection: Connection) -> None:
    """Below the first revision our schema goes as well, unless somebody keeps something in it."""
    connection.execute(text("DROP TABLE IF EXISTS relay.alembic_version"))
    try:
        with connection.begin_nested():
            connection.execute(text("DROP SCHEMA relay"))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != DEPENDENT_OBJECTS:
            raise


async def run_from_environment() -> None:
    database = Database(os.environ["RELAY_DATABASE_URL"], application_name="relay-migrate")
    try:
        async with database.begin() as connection:
            await connection.run_sync(run)
    finally:
        await database.close()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    asyncio.run(run_from_environment())
