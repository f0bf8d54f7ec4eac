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
