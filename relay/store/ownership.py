"""Who owns the schema, and acting as that role: what a migration or a partition is made by.

Whoever makes a table owns it, and only its owner may change or drop it. So a member of the owning
role makes things in its name, and the next member can go on with them.
"""

from __future__ import annotations

import asyncpg
from sqlalchemy import Connection, text

# Whoever owns the tables; before there are any, the schema; before there is one, who is to have it.
# Since PostgreSQL 16 a membership need not bring the right to act as the group.
_OWNER = """
SELECT r.rolname AS name, r.rolname = current_user AS is_me,
       pg_has_role(r.oid, CASE WHEN current_setting('server_version_num')::integer >= 160000
                               THEN 'SET' ELSE 'MEMBER' END) AS may_act,
       pg_has_role(r.oid, 'USAGE') AS has_rights
FROM pg_roles r WHERE r.oid = coalesce(
    (SELECT relowner FROM pg_class WHERE oid = to_regclass('relay.compatibility')),
    (SELECT nspowner FROM pg_namespace WHERE nspname = 'relay'),
    (SELECT oid FROM pg_roles WHERE rolname = 'relay_migrator'))
"""
_ACT_AS = "SELECT set_config('role', {}, true)"


async def act_as_owner(pg: asyncpg.Connection) -> bool:
    """Be the owner of the tables until the transaction ends; False when this role may not."""
    found = await pg.fetchrow(_OWNER)
    if found is None or not found["may_act"]:
        return False
    if not found["is_me"]:
        await pg.execute(_ACT_AS.format("$1"), found["name"])
    return True


async def owner(pg: asyncpg.Connection) -> str | None:
    """The role that owns the tables, or is to own them."""
    found = await pg.fetchrow(_OWNER)
    return None if found is None else str(found["name"])


async def has_owners_rights(pg: asyncpg.Connection) -> bool:
    """Whether this role may drop partitions and delete rows, without acting as another one."""
    found = await pg.fetchrow(_OWNER)
    return found is not None and bool(found["has_rights"])


def act_as_migrator(connection: Connection) -> None:
    """Make the schema where it is missing, and be its owner until the transaction ends.

    A role that may not act as the owner stays what it is: PostgreSQL tells it what it lacks.
    """
    found = connection.execute(text(_OWNER)).one_or_none()
    may_act = found is not None and found.may_act
    exists = text("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'relay')")
    # IF NOT EXISTS asks for the right to create one even where an administrator has done so.
    if not connection.scalar(exists):
        owned = " AUTHORIZATION relay_migrator" if may_act else ""
        connection.execute(text("CREATE SCHEMA relay" + owned))
    if found is not None and may_act and not found.is_me:
        connection.execute(text(_ACT_AS.format(":name")), {"name": found.name})
