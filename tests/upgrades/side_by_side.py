"""Receivers and forwarders of two builds at work on one database, judged by the checker."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from relay.dev import samples
from tests.acceptance import checker, evidence
from tests.acceptance.checker import Facts
from tests.acceptance.fleet import Program, Serving, command, create_source, get
from tests.acceptance.sender import Event, Sender, Webhook
from tests.support.processes import eventually
from tests.support.topics import make_topics

SECRET = "whsec_" + "u" * 32
OBJECTS = 40
CONNECTIONS = 8
TYPES = ("customer.created", "customer.updated", "customer.deleted")
TOPICS = ("customer",)


class Builds:
    """An older and a newer build, each with a receiver and a forwarder, under load.

    ``newer`` is the one that knows the way between the two revisions.
    """

    def __init__(
        self, older: Program, newer: Program, settings: Mapping[str, str], directory: Path
    ) -> None:
        self._newer = newer
        self._settings = settings
        self._over = False
        self.receivers = {
            name: Serving("receiver", settings, directory / f"{name}-receiver.log", relay=program)
            for name, program in (("older", older), ("newer", newer))
        }
        self.forwarders = {
            name: Serving("forwarder", settings, directory / f"{name}-forwarder.log", relay=program)
            for name, program in (("older", older), ("newer", newer))
        }
        self.sender: Sender

    @property
    def all(self) -> list[Serving]:
        return [*self.receivers.values(), *self.forwarders.values()]

    async def migrate(self, *arguments: str) -> None:
        """`relay migrate` of the newer build, which has to succeed."""
        status, output, errors = await command(
            "migrate", *arguments, environment=self._settings, relay=self._newer
        )
        assert status == 0, output + errors

    async def some_more(self, count: int = 400) -> None:
        """Wait until so many more events were answered."""
        wanted = len(self.sender.posted) + count
        await eventually(lambda: len(self.sender.posted) >= wanted, deadline=120)

    async def becomes(self, name: str, *, ready: bool, because: str = "") -> None:
        """Wait until `/readyz` of a build's receiver says so, for this reason of the schema."""

        async def is_so() -> bool:
            answer = await get(self.receivers[name].port, "/readyz")
            reason = answer.json["checks"]["schema"].get("reason", "")
            return answer.status == (200 if ready else 503) and because in reason

        await eventually(is_so)

    def _events(self) -> Iterator[Event]:
        rng = random.Random(7)
        for number in itertools.count():
            if self._over:
                return
            name = f"cus_{rng.randrange(OBJECTS)}"
            sample = samples.sample(
                rng.choice(TYPES), seed=number, event_id=f"evt_{number:06}", object_id=name
            )
            yield Event(sample.event_id, f'{{"id":"{name}"}}'.encode(), sample.body)

    @asynccontextmanager
    async def under_load(self, webhook: Webhook) -> AsyncIterator[None]:
        """Events come in until the end of the block."""
        self.sender = Sender(
            webhook, lambda: [each.port for each in self.receivers.values()], random.Random(8)
        )
        load = asyncio.create_task(self.sender.run(self._events(), CONNECTIONS))
        try:
            yield
        finally:
            self._over = True
            await load


@asynccontextmanager
async def side_by_side(
    older: Program,
    newer: Program,
    settings: dict[str, str],
    directory: Path,
    *,
    topic_prefix: str,
    pg: asyncpg.Connection,
) -> AsyncIterator[Builds]:
    """Both builds under load; at the end everything has to be as the contract says.

    Not one request may have been answered with anything but 2xx, and no connection have broken.
    """
    topics = [topic_prefix + name for name in TOPICS]
    await make_topics(settings["RELAY_KAFKA_BOOTSTRAP_SERVERS"], topics)
    flags = ("--signing-secret", SECRET, "--topic-prefix", topic_prefix)
    source = await create_source("acme", *flags, environment=settings)
    webhook = Webhook(f"/webhooks/{source['id']}?api_key={source['api_key']}", SECRET)
    # A batch is a line of the log at this level only.
    builds = Builds(older, newer, settings | {"RELAY_LOG_LEVEL": "debug"}, directory)
    try:
        await asyncio.gather(*(each.started() for each in builds.all))
        async with builds.under_load(webhook):
            await builds.some_more()
            yield builds
        await eventually(lambda: _is_finished(pg), deadline=120)
        statuses = [await each.stop() for each in builds.all]
    finally:
        for each in builds.all:
            await each.kill()
    assert statuses == [0] * len(statuses)
    assert set(builds.sender.answers) == {"stored"}, builds.sender.answers
    facts = Facts(
        posted=builds.sender.posted,
        inbox=await evidence.read_inbox(pg),
        receipts=await evidence.read_receipts(pg),
        records=await evidence.read_records(
            settings["RELAY_KAFKA_BOOTSTRAP_SERVERS"], topic_prefix
        ),
    )
    print(f"{len(facts.posted)} events, {len(facts.records)} records: {builds.sender.answers}")
    assert checker.check(facts)[:20] == []
    for each in builds.forwarders.values():
        assert each.lines("forwarder.batch"), f"{each.log}: not one batch"


async def _is_finished(pg: asyncpg.Connection) -> bool:
    return not await pg.fetchval(
        "SELECT EXISTS (SELECT FROM relay.queue) OR EXISTS (SELECT FROM relay.batch_note)"
    )
