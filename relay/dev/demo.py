"""`relay demo`: the whole path on throw-away parts, and proof that nothing is missing.

Everything is the product itself: a real PostgreSQL, a real broker, the app with all its roles, and
signed requests over HTTP. Only the parts are embedded, and their directory is temporary.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final

import asyncpg

from relay import logs
from relay.app import App, running
from relay.core.errors import RelayError
from relay.dev import backfill, evidence, parts, report, traffic
from relay.dev.broker import EmbeddedBroker
from relay.dev.postgres import EmbeddedPostgres
from relay.dev.progress import ProgressDisplay
from relay.dev.sender import Endpoint, Sender
from relay.dev.stripe_api import FakeStripe
from relay.dev.verdict import Facts
from relay.settings import Settings, load
from relay.store import schema, sources
from relay.store.engine import Database
from relay.store.sealing import Seal, new_key

STALLED_SECONDS: Final = 60.0
"""The demo gives up when nothing was received or delivered for so long."""
_POLL_SECONDS: Final = 0.05
_SOURCES: Final = (traffic.SHOP, traffic.MARKETPLACE)


class NotDeliveredError(RelayError):
    """Events wait in the queue, and nothing moves."""

    default_code = "not_delivered"


def run(events: int, json: bool) -> int:
    """Post so many events, check, and write what was found to stdout; returns the exit status.

    Raises StartError when a part does not start, NotDeliveredError when the queue stays filled and
    EvidenceError when the topics cannot be read.
    """
    found: list[report.Summary] = []
    with ProgressDisplay() as progress:
        status = parts.run(_demonstrate(events, progress, found))
    for summary in found:
        (report.write_json if json else report.write)(summary)
    return status


async def _demonstrate(events: int, progress: ProgressDisplay, found: list[report.Summary]) -> int:
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        preparing = asyncio.create_task(asyncio.to_thread(traffic.prepared, events))
        progress.show("start", 0, 3, "PostgreSQL and a broker that speaks Kafka's protocol")
        postgres, broker = await _start_parts(stack)
        stripe = await stack.enter_async_context(FakeStripe(backfill.OBJECTS))
        progress.show("start", 1, 3, "schema, sources and a fake of the Stripe API")
        settings = _settings(postgres, broker, stripe)
        logs.configure(settings.log_format, settings.log_level, settings.secrets())
        await schema.migrate(postgres.dsn)
        endpoints = await _create_sources(postgres.dsn, Seal(settings.encryption_keys), stripe)
        progress.show("start", 2, 3, "receiver, forwarder and snapshotter")
        relay = await stack.enter_async_context(running(settings))
        progress.show("start", 3, 3)
        sender = Sender(_base_url(relay), endpoints)
        posting = asyncio.create_task(sender.send(await preparing))
        await _until_through(posting, sender, events + traffic.SPECIALS, postgres.dsn, progress)
        progress.show("check", 0, 1, "reading the inbox and the topics back")
        seen = await evidence.gather(postgres.dsn, broker.bootstrap_servers)
        facts = Facts(sender.sent, seen, backfill.listed(stripe, traffic.SHOP))
        summary = report.summarize(facts, time.monotonic() - started)
        progress.show("check", 1, 1)
    found.append(summary)
    return 0 if summary.ok else 1


async def _start_parts(stack: AsyncExitStack) -> tuple[EmbeddedPostgres, EmbeddedBroker]:
    directory = Path(stack.enter_context(_temporary_directory()))
    postgres = EmbeddedPostgres(directory / "postgres")
    broker = EmbeddedBroker(directory / "broker.log")
    await parts.start_together(stack, postgres, broker)
    return postgres, broker


@contextmanager
def _temporary_directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="relay-demo-") as directory:
        # Root's PostgreSQL runs as another user, who has to pass; what is in it stays private.
        os.chmod(directory, 0o711)  # noqa: S103 - to pass, not to read
        yield directory


def _settings(postgres: EmbeddedPostgres, broker: EmbeddedBroker, stripe: FakeStripe) -> Settings:
    """Nothing of the environment but how much is logged.

    Only errors unless told so: that an event dies is what the demo is about, and not worth a
    warning.
    """
    return load(
        {
            "RELAY_DATABASE_URL": postgres.dsn,
            "RELAY_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "RELAY_ENCRYPTION_KEYS": new_key(),
            "RELAY_STRIPE_API_BASE": stripe.url,
            "RELAY_STRIPE_RATE_SHARE": "1",
            "RELAY_BIND": "127.0.0.1:0",
            "RELAY_ADMIN_BIND": "127.0.0.1:0",
            # librdkafka writes to stderr by itself that the broker has stopped.
            "RELAY_KAFKA_LOG_LEVEL": "0",
            "RELAY_LOG_LEVEL": os.environ.get("RELAY_LOG_LEVEL", "error"),
        }
    )


async def _create_sources(dsn: str, seal: Seal, stripe: FakeStripe) -> dict[str, Endpoint]:
    """One by its webhook alone, and one that is filled from the Stripe API as well."""
    endpoints = {}
    database = Database(dsn, pool_size=1, application_name="relay-demo")
    try:
        async with database.begin() as connection:
            for config in _SOURCES:
                secret = "whsec_" + secrets.token_urlsafe(24)
                loads = config is traffic.SHOP
                made, key = await sources.create(
                    connection,
                    config,
                    sealed_secrets=[seal.seal(secret.encode())],
                    sealed_stripe_key=seal.seal(stripe.key.encode()) if loads else None,
                )
                if loads:
                    await backfill.start(connection, made.config)
                path = f"/webhooks/{made.config.public_id}?api_key={key}"
                endpoints[config.name] = Endpoint(path, secret)
    finally:
        await database.close()
    return endpoints


def _base_url(relay: App) -> str:
    assert relay.receiver is not None
    host, port = relay.receiver.addresses[0]
    return f"http://{host}:{port}"


async def _until_through(
    posting: asyncio.Task[None], sender: Sender, total: int, dsn: str, progress: ProgressDisplay
) -> None:
    """Wait until everything is posted and has left the queue."""
    connection = await asyncpg.connect(dsn)
    try:
        await _watch(connection, sender, posting, total, progress)
        await posting
    finally:
        posting.cancel()
        await connection.close()


async def _watch(
    connection: asyncpg.Connection,
    sender: Sender,
    posting: asyncio.Task[None],
    total: int,
    progress: ProgressDisplay,
) -> None:
    """Show how far it is until nothing waits. Raises NotDeliveredError when it does not move."""
    moved_at, last = time.monotonic(), (-1, -1)
    while True:
        all_sent = posting.done()
        asked_at = time.monotonic()
        waiting = await evidence.waiting(connection)
        read, reading = await evidence.snapshots(connection)
        now = time.monotonic()
        accepted = sum(each.answered is not None for each in sender.sent)
        progress.show("posted", len(sender.sent), total)
        progress.show("forwarded", max(0, accepted - waiting), total - traffic.REFUSED)
        progress.show("snapshot", read, sum(backfill.OBJECTS.values()))
        if all_sent and waiting == 0 and not reading:
            return
        if (len(sender.sent), waiting + read) != last:
            moved_at, last = now, (len(sender.sent), waiting + read)
        elif now - moved_at > STALLED_SECONDS:
            why = await evidence.why_waiting(connection)
            raise NotDeliveredError(
                f"nothing has moved for {STALLED_SECONDS:.0f} s: {len(sender.sent):,} of {total:,}"
                f" events are posted and {waiting:,} wait" + (f" ({why})" if why else "")
            )
        # Counting a long queue is work, too.
        await asyncio.sleep(max(_POLL_SECONDS, 4 * (now - asked_at)))
