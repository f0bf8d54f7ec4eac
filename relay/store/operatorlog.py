"""Reading what operators did; ``relay.store.events.log`` writes it down."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.store.tables import operator_log


async def page(
    connection: AsyncConnection, *, limit: int, before_id: int | None = None
) -> list[dict[str, Any]]:
    """The newest first; ``before_id`` continues."""
    statement = select(operator_log).order_by(operator_log.c.id.desc()).limit(limit)
    if before_id is not None:
        statement = statement.where(operator_log.c.id < before_id)
    return [dict(row._mapping) for row in await connection.execute(statement)]
