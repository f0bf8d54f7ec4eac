"""Whatever a database call may raise, for callers to whom one reason is as good as another."""

from __future__ import annotations

from typing import Final

import asyncpg
from sqlalchemy.exc import SQLAlchemyError

from relay.store.engine import UNAVAILABLE

DATABASE_FAILURES: Final[tuple[type[BaseException], ...]] = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    *UNAVAILABLE,
)


def is_outage(error: BaseException) -> bool:
    """Whether the database is the reason, and not what it was asked to store or to do."""
    if isinstance(error, OSError):
        return True  # among them what TLS does not trust, which is a ValueError, too
    # asyncpg's word for a value that it cannot encode is an InterfaceError and a ValueError.
    away = isinstance(error, (SQLAlchemyError, *UNAVAILABLE))
    return away and not isinstance(error, ValueError)
