"""The baseline: Litestar, HMAC, and one SQLAlchemy ORM transaction per request.

python -m benchmarks.naive_receiver PORT DATABASE_URL
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
from sqlalchemy import LargeBinary, Text, func
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
    status: Mapped[str] = mapped_column(Text, default="pending", index=True)
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())


def main() -> None:
    port, url = int(sys.argv[1]), sys.argv[2]
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    sessions = async_sessionmaker(engine)

    async def create() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

    @post("/webhooks", status_code=200)
    async def receive(request: Request) -> dict[str, bool]:
        body = await request.body()
        parts = dict(part.split("=", 1) for part in request.headers["stripe-signature"].split(","))
        signed = parts["t"].encode() + b"." + body
        wanted = hmac.digest(SECRET.encode(), signed, hashlib.sha256).hex()
        if not hmac.compare_digest(wanted, parts["v1"]):
            raise ClientException("wrong signature")
        event = json.loads(body)
        async with sessions.begin() as session:
            session.add(Event(event_id=event["id"], event_type=event["type"], body=body))
        return {"received": True}

    app = Litestar([receive], on_startup=[create], openapi_config=None)
    uvicorn.run(app, port=port, log_level="error", access_log=False, http="httptools")


if __name__ == "__main__":
    main()
