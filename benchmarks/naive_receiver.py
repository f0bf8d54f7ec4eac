"""The baseline: Litestar, HMAC, and one SQLAlchemy ORM transaction per request.

python -m benchmarks.naive_receiver PORT [DATABASE_URL]

Without a database it only checks the signature and decodes the body.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
from datetime import datetime

import uvicorn
from litestar import Litestar, Request, post
from litestar.exceptions import ClientException
from sqlalchemy import Index, LargeBinary, Text, func, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.load import SECRET


class Base(DeclarativeBase):
    pass


class Event(Base):
    __tablename__ = "naive_inbox"

    id: Mapped[int] = mapped_column(primary_key=True)
    event_id: Mapped[str] = mapped_column(Text, unique=True)
    event_type: Mapped[str] = mapped_column(Text)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    status: Mapped[str] = mapped_column(Text, default="pending", server_default="pending")
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        Index("naive_inbox_pending_idx", "id", postgresql_where=text("status = 'pending'")),
    )


async def create(url: str) -> None:
    """Make the table in an empty database."""
    engine = create_async_engine(asyncpg_url(url))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


def asyncpg_url(url: str) -> str:
    """A libpq URL as SQLAlchemy wants it."""
    return url.replace("postgresql://", "postgresql+asyncpg://")


def main() -> None:
    port, url = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    sessions = async_sessionmaker(create_async_engine(asyncpg_url(url))) if url else None

    @post("/webhooks", status_code=200)
    async def receive(request: Request) -> dict[str, bool]:
        body = await request.body()
        parts = dict(part.split("=", 1) for part in request.headers["stripe-signature"].split(","))
        signed = parts["t"].encode() + b"." + body
        wanted = hmac.digest(SECRET.encode(), signed, hashlib.sha256).hex()
        if not hmac.compare_digest(wanted, parts["v1"]):
            raise ClientException("wrong signature")
        event = json.loads(body)
        if sessions is not None:
            async with sessions.begin() as session:
                session.add(Event(event_id=event["id"], event_type=event["type"], body=body))
        return {"received": True}

    app = Litestar([receive], openapi_config=None)
    uvicorn.run(app, port=port, log_level="error", access_log=False, http="httptools")


if __name__ == "__main__":
    main()
