"""Whether the server that we are connected to keeps what it has acknowledged."""

from __future__ import annotations

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_FACTS = text(
    """
    SELECT pg_is_in_recovery() AS in_recovery,
           current_setting('transaction_read_only') AS read_only,
           current_setting('fsync') AS fsync,
           current_setting('full_page_writes') AS full_page_writes,
           current_setting('synchronous_commit') AS synchronous_commit,
           current_setting('synchronous_standby_names') AS synchronous_standby_names
    """
)


async def find_faults(connection: AsyncConnection, *, several_hosts: bool) -> dict[str, str]:
    """What is wrong, by `writable` and `durability`; empty when nothing is.

    With several hosts there is a failover, and a failover to a standby that is not synchronous
    loses what was acknowledged last.
    """
    facts = (await connection.execute(_FACTS)).one()
    faults = {}
    if facts.in_recovery:
        faults["writable"] = "the server is a standby"
    elif facts.read_only == "on":
        faults["writable"] = "transactions are read-only (default_transaction_read_only)"
    weak = [
        f"{name} is off" for name in ("fsync", "full_page_writes") if getattr(facts, name) != "on"
    ]
    if facts.synchronous_commit not in ("on", "remote_apply"):
        weak.append(f"synchronous_commit is {facts.synchronous_commit}")
    if several_hosts and not facts.synchronous_standby_names.strip():
        weak.append("there are several hosts, but synchronous_standby_names is empty")
    if weak:
        faults["durability"] = "; ".join(weak)
    return faults


async def is_stalled(pg: asyncpg.Connection, seconds: float) -> bool:
    """Whether a commit of this role waits for a synchronous standby for as long as that.

    It does so even when whoever began it has gone.
    """
    found: bool = await pg.fetchval(
        """
        SELECT EXISTS (
            SELECT FROM pg_stat_activity
            WHERE wait_event = 'SyncRep'
              AND query_start < clock_timestamp() - make_interval(secs => $1))
        """,
        seconds,
    )
    return found


async def write_mark(pg: asyncpg.Connection) -> None:
    """Make the present transaction one that has to be flushed and replicated like any other.

    A transaction that writes nothing commits at once. When it has only found that an event is
    stored already, that event may be what a crash left committed but not yet replicated: the
    commit of this mark returns when everything before it is safe, too.
    """
    await pg.execute("SELECT pg_logical_emit_message(true, 'relay', '')")
