"""The index by which rows are found for sealing, on partitions from before there was one.

New partitions have it from their parent. On one that holds rows already it is made CONCURRENTLY,
which no insert waits for, and by the owner alone. Then it is attached to the parent's, so that
PostgreSQL takes that for complete in the end.
"""

from __future__ import annotations

import asyncpg

from relay.store.engine import READ_COMMITTED

# It waits for every transaction that has seen the table: a forgotten one shall not stop the
# housekeeping for ever. What is left half done is made anew in the next round.
BUILD_SECONDS = 600.0

_WITHOUT = """
SELECT c.relname FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
WHERE h.inhparent = 'relay.inbox'::regclass AND NOT h.inhdetachpending AND NOT EXISTS (
    SELECT FROM pg_inherits x JOIN pg_index i ON i.indexrelid = x.inhrelid
    WHERE x.inhparent = to_regclass('relay.inbox_xact_id_idx') AND i.indrelid = c.oid
      AND i.indisvalid)
ORDER BY c.relname
"""


async def is_complete(pg: asyncpg.Connection) -> bool:
    """Whether every partition of the inbox has it."""
    return await pg.fetchval(_WITHOUT) is None


async def complete(pg: asyncpg.Connection) -> int:
    """Make what is missing, outside of a transaction; returns how many partitions have it now.

    Stops at the first one for which there was no time, or whose lock is not to be had.
    """
    made = 0
    for row in await pg.fetch(_WITHOUT):
        try:
            await _build(pg, row["relname"])
        except (TimeoutError, asyncpg.LockNotAvailableError):
            break
        made += 1
    return made


async def _build(pg: asyncpg.Connection, partition: str) -> None:
    index = f"{partition}_xact_id_idx"
    is_valid = await pg.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('relay.' || $1)", index
    )
    if is_valid is False:
        await pg.execute(f"DROP INDEX CONCURRENTLY relay.{index}", timeout=BUILD_SECONDS)
    if not is_valid:
        await pg.execute(
            f"CREATE INDEX CONCURRENTLY {index} ON relay.{partition} USING brin (xact_id)"
            " WITH (pages_per_range = 512, autosummarize = on)",
            timeout=BUILD_SECONDS,
        )
    async with pg.transaction(isolation=READ_COMMITTED):
        # Inserts wait behind us for as long as we wait, and no longer.
        await pg.execute("SET LOCAL lock_timeout = '500ms'")
        await pg.execute(f"ALTER INDEX relay.inbox_xact_id_idx ATTACH PARTITION relay.{index}")
