"""Facts about the server and this role's rights on it, for people who look for what is wrong."""

from __future__ import annotations

import asyncpg
import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

READS_STATISTICS = "pg_monitor"
"""The role whose members see what the sessions of others do."""

TABLES_OF_SERVICES = {
    "receiver": {
        "source": "SELECT",
        "api_key": "SELECT",
        "inbox": "INSERT",
        "event_key": "INSERT",
        "queue": "INSERT",
        "dead_letter": "INSERT",
    },
    "forwarder": {
        "source": "SELECT",
        "lane": "SELECT",
        "inbox": "SELECT",
        "queue": "SELECT,UPDATE,DELETE",
        "receipt": "INSERT",
        "dead_letter": "INSERT",
        "batch_note": "INSERT,DELETE",
    },
    "snapshotter": {
        "source": "SELECT",
        "inbox": "INSERT",
        "event_key": "INSERT",
        "queue": "INSERT",
        "snapshot": "SELECT,UPDATE",
        "snapshot_range": "SELECT,INSERT,UPDATE",
        "api_rate": "SELECT,UPDATE",
    },
    "admin": {
        "source": "SELECT,INSERT,UPDATE",
        "api_key": "SELECT,INSERT,DELETE",
        "dead_letter": "SELECT,UPDATE",
        "queue": "SELECT,UPDATE,DELETE",
        "operator_log": "INSERT",
    },
}
"""By which tables it shows whether a role may do the work of a service."""


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """What the server is, as a session of this role sees it. Time-outs in seconds, 0 for none."""

    version: str
    version_number: int
    encoding: str
    isolation: str
    max_connections: int
    reserved_connections: int
    connections: int
    role_connection_limit: int
    """-1: none."""
    database_connection_limit: int
    frozen_age: int
    """Transactions since the oldest row that is not frozen; the end is at 2 billion."""
    encrypted: bool
    local: bool
    """The session comes from the server's own machine, as far as the server can tell."""
    statement_timeout: float
    idle_timeout: float
    """``idle_in_transaction_session_timeout``."""
    transaction_timeout: float
    lock_timeout: float


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """Who this session is and what it may do."""

    name: str
    superuser: bool
    owner: bool
    """Of the tables of relay, by itself or as a member of the role that owns them."""
    reads_statistics: bool
    missing: dict[str, tuple[str, ...]]
    """By service what it needs and this role has not got (``INSERT ON relay.inbox``)."""


class Setting(msgspec.Struct, frozen=True):
    """A setting that ``ALTER ROLE`` or ``ALTER DATABASE`` has attached; None is everyone."""

    role: str | None
    database: str | None
    name: str
    value: str


class Standby(msgspec.Struct, frozen=True):
    """A server that follows this one; ``state`` is ``sync``, ``quorum``, ``potential``, ``async``.

    None where this role may not see it.
    """

    name: str | None
    state: str | None


class Replication(msgspec.Struct, frozen=True):
    """``wanted`` is ``synchronous_standby_names``."""

    wanted: str
    standbys: tuple[Standby, ...]


# The values that a session begins with, whatever has been set in this one.
_SERVER = text(
    """
    WITH seconds AS (
        SELECT name, reset_val::float8 / 1000 AS value FROM pg_settings WHERE unit = 'ms'
    ), peers AS (
        SELECT inet_client_addr() AS client
    )
    SELECT current_setting('server_version') AS version,
           current_setting('server_version_num')::int AS version_number,
           current_setting('server_encoding') AS encoding,
           (SELECT reset_val FROM pg_settings WHERE name = 'default_transaction_isolation')
               AS isolation,
           current_setting('max_connections')::int AS max_connections,
           current_setting('superuser_reserved_connections')::int
               + coalesce(current_setting('reserved_connections', true)::int, 0)
               AS reserved_connections,
           (SELECT count(*)::int FROM pg_stat_activity WHERE datid IS NOT NULL)
               AS connections,
           r.rolconnlimit AS role_connection_limit,
           d.datconnlimit AS database_connection_limit,
           age(d.datfrozenxid) AS frozen_age,
           coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)
               AS encrypted,
           (SELECT client IS NULL OR client <<= inet '127.0.0.0/8' OR host(client) = '::1'
               FROM peers) AS local,
           (SELECT value FROM seconds WHERE name = 'statement_timeout') AS statement_timeout,
           (SELECT value FROM seconds WHERE name = 'idle_in_transaction_session_timeout')
               AS idle_timeout,
           coalesce((SELECT value FROM seconds WHERE name = 'transaction_timeout'), 0)
               AS transaction_timeout,
           (SELECT value FROM seconds WHERE name = 'lock_timeout') AS lock_timeout
    FROM pg_database d, pg_roles r
    WHERE d.datname = current_database() AND r.rolname = current_user
    """
)

_ROLE = text(
    """
    SELECT r.rolname AS name, r.rolsuper AS superuser,
           EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = 'relay' AND c.relname = 'inbox'
                     AND pg_has_role(c.relowner, 'USAGE')) AS owner,
           pg_has_role('pg_read_all_stats', 'USAGE') AS reads_statistics
    FROM pg_roles r WHERE r.rolname = current_user
    """
)
# Nothing is missing on a table that is not there yet: that is the schema's fault and told by it.
_MISSING = text(
    """
    SELECT needed.service, right_of.name || ' ON relay.' || needed.relation AS missing
    FROM unnest(CAST(:services AS text[]), CAST(:tables AS text[]), CAST(:rights AS text[]))
             AS needed (service, relation, rights),
         unnest(string_to_array(needed.rights, ',')) AS right_of (name)
    WHERE to_regclass('relay.' || needed.relation) IS NOT NULL
      AND NOT has_table_privilege(to_regclass('relay.' || needed.relation), right_of.name)
      AND NOT (right_of.name <> 'DELETE'
               AND has_any_column_privilege(to_regclass('relay.' || needed.relation),
                                            right_of.name))
    """
)

_SETTINGS = text(
    """
    SELECT r.rolname AS role, d.datname AS database,
           split_part(pair, '=', 1) AS name, substr(pair, strpos(pair, '=') + 1) AS value
    FROM pg_db_role_setting s
    CROSS JOIN LATERAL unnest(s.setconfig) AS pair
    LEFT JOIN pg_roles r ON r.oid = s.setrole
    LEFT JOIN pg_database d ON d.oid = s.setdatabase
    WHERE s.setdatabase = 0 OR d.datname = current_database()
    ORDER BY role, name
    """
)

_STANDBYS = text("SELECT application_name AS name, sync_state AS state FROM pg_stat_replication")
_WANTED = text("SELECT current_setting('synchronous_standby_names')")


async def server(connection: AsyncConnection) -> Server:
    """What one query tells about the server and this session."""
    row = (await connection.execute(_SERVER)).one()
    return Server(**row._mapping)


async def role(connection: AsyncConnection) -> Role:
    """Who we are and what we may do."""
    row = (await connection.execute(_ROLE)).one()
    needed = [
        (service, table, rights)
        for service, tables in TABLES_OF_SERVICES.items()
        for table, rights in tables.items()
    ]
    services, tables, rights = (list(column) for column in zip(*needed, strict=True))
    missing: dict[str, tuple[str, ...]] = dict.fromkeys(TABLES_OF_SERVICES, ())
    if await _may_use_schema(connection):
        values = {"services": services, "tables": tables, "rights": rights}
        for found in await connection.execute(_MISSING, values):
            missing[found.service] += (found.missing,)
    else:
        missing = dict.fromkeys(TABLES_OF_SERVICES, ("USAGE ON SCHEMA relay",))
    return Role(**row._mapping, missing=missing)


async def _may_use_schema(connection: AsyncConnection) -> bool:
    asked = text(
        "SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = 'relay'"
    )
    # A schema that is missing is another check's business.
    return (await connection.execute(asked)).scalar_one_or_none() is not False


async def attached_settings(connection: AsyncConnection) -> list[Setting]:
    """What is attached to roles and databases that concern this database."""
    return [Setting(*row) for row in await connection.execute(_SETTINGS)]


async def replication(connection: AsyncConnection) -> Replication:
    """Who follows this server."""
    wanted = (await connection.execute(_WANTED)).scalar_one()
    standbys = [Standby(*row) for row in await connection.execute(_STANDBYS)]
    return Replication(wanted.strip(), tuple(standbys))


async def shares_backends(one: asyncpg.Connection, other: asyncpg.Connection) -> bool:
    """Whether two connections that are open at once are served by one backend, in turn.

    Then a pooler in transaction mode stands between.
    """
    for _ in range(5):
        pids = [await each.fetchval("SELECT pg_backend_pid()") for each in (one, other)]
        if pids[0] == pids[1]:
            return True
    return False


async def bound(connection: AsyncConnection, seconds: float) -> None:
    """Have the server give up each further statement of this transaction after so long."""
    await connection.execute(
        text("SELECT set_config('statement_timeout', :value, true)"),
        {"value": str(int(seconds * 1000))},
    )
