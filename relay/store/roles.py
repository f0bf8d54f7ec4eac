"""Least privilege: a role for each kind of process, and what it may do.

What they may do is written in ``sql/grants.sql``, which is also what a DBA reads; docs/security.md
has it as a table. The groups are NOLOGIN: logins are made by whoever runs the server.
"""

from __future__ import annotations

from importlib.resources import files

import asyncpg
import msgspec

from relay.core.errors import ConfigError, RelayError
from relay.store import ownership
from relay.store.engine import Database

ROLES = (
    "relay_migrator",
    "relay_receiver",
    "relay_forwarder",
    "relay_snapshotter",
    "relay_admin",
    "relay_auditor",
)


class Group(msgspec.Struct, frozen=True):
    """One of the roles, and who is in it."""

    name: str
    members: list[str]


def _text(name: str) -> str:
    return (files("relay.store") / "sql" / name).read_text("utf-8")


def script() -> str:
    """All of it as one transaction, for psql or any other client."""
    parts = (_text(name) for name in ("roles.sql", "grants.sql", "leave.sql"))
    return "\n".join(["BEGIN;", *parts, "COMMIT;\n"])


async def apply(dsn: str) -> list[Group]:
    """Make the roles that are missing, give them the schema and grant them their rights.

    Needs CREATEROLE, and the rights of whoever owns the schema now. What runs as that owner goes
    on: it joins relay_migrator. On a schema of before, the grants are left to `relay migrate`.
    Raises ConfigError when a right is missing or the schema is of a later revision, and RelayError
    when a long transaction is in the way.
    """
    database = Database(dsn, pool_size=1, application_name="relay-roles")
    try:
        async with database.driver() as pg:
            try:
                await pg.execute(script())
            except asyncpg.LockNotAvailableError as error:
                raise RelayError(
                    "cannot apply the roles: a transaction has held a table for 5 s; nothing was"
                    " changed, try again",
                    code="locked",
                ) from error
            except (
                asyncpg.InsufficientPrivilegeError,
                asyncpg.ObjectNotInPrerequisiteStateError,
                asyncpg.RaiseError,
            ) as error:
                hint = f" {error.hint}" if error.hint else ""
                raise ConfigError(f"cannot apply the roles: {error.message}.{hint}") from error
            return await groups(pg)
    finally:
        await database.close()


async def groups(pg: asyncpg.Connection) -> list[Group]:
    """The roles that there are, with the roles that are their members."""
    rows = await pg.fetch(
        """
        SELECT g.rolname, ARRAY(
            SELECT m.rolname FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member
            WHERE a.roleid = g.oid GROUP BY 1 ORDER BY 1) AS members
        FROM pg_roles g WHERE g.rolname = ANY ($1) ORDER BY array_position($1, g.rolname::text)
        """,
        list(ROLES),
    )
    return [Group(row["rolname"], row["members"]) for row in rows]


async def grant_again(pg: asyncpg.Connection) -> None:
    """Grant what a migration has brought, in the caller's transaction, where there are roles.

    Roles are there for a whole cluster; what tells that they are used here is the schema's owner.
    Raises ConfigError when one of them is missing.
    """
    if await ownership.owner(pg) != ROLES[0] or not await ownership.act_as_owner(pg):
        return
    there = [group.name for group in await groups(pg)]
    for name in ROLES:
        if name not in there:
            raise ConfigError(f"the role {name} is missing: `relay roles apply` makes it")
    await pg.execute(_text("grants.sql"))
