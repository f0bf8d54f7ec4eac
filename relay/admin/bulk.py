"""Sending many events again: what would happen, the beginning, and going on with it.

A replay of many is begun by a page or by the API, in one transaction, and goes on in the processes
with the role admin: in that one, and after its end in any other. The operator log holds how far it
has come (`relay.store.runs`), so nothing is queued twice, whoever goes on with it.
"""

from __future__ import annotations

import asyncio
from typing import Final, Literal, get_args

import msgspec
import structlog

from relay.admin import query
from relay.admin.answers import Refusal
from relay.admin.desk import Desk
from relay.admin.query import Asked
from relay.core.errors import RelayError
from relay.store import deadletters, replays, runs
from relay.store.engine import Database
from relay.store.events import Operator
from relay.store.failures import DATABASE_FAILURES
from relay.store.runs import Progress, Told

_log: Final = structlog.get_logger("relay.admin")

Of = Literal["dead-letters", "events"]
OF: Final = get_args(Of)

_COUNT_SECONDS: Final = 8.0
_LOOKED_AT: Final = 1000
# A page of a replay is renewed all the time; that shall not have the receipts read all the time.
_QUICK_SECONDS: Final = 0.3
_REST: Final = 10.0
_MOST_SEEN: Final = 100
# Those of a process that is gone are found so soon after its end; to look reads the whole log.
_SCAN_SECONDS: Final = 60.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay would do now.

    ``left_out`` counts by the reason what cannot be sent, and ``overtaken`` those of whose object a
    newer event was delivered, both among the first ``looked_at`` of the ``matched``. Events of
    ``unpaused`` sources that arrive meanwhile may be sent before older ones of their object.
    """

    of: Of
    matched: int
    looked_at: int
    left_out: dict[str, int]
    overtaken: int | None
    unpaused: list[str]


def kind(text: str | None) -> Of:
    """Of what, as a page or a program has written it."""
    if text not in OF:
        raise Refusal(400, f"of: {text!r} is neither of {' and '.join(OF)}.")
    return "events" if text == "events" else "dead-letters"


async def plan(desk: Desk, of: Of, asked: Asked) -> Plan:
    """Look at it, and change nothing. Raises Refusal for a filter that cannot be."""
    async with desk.count(_COUNT_SECONDS) as connection:
        if of == "dead-letters":
            run = await deadletters.prepare(connection, await query.resolve(connection, asked))
            seen = await deadletters.look_at_some(connection, run, limit=_LOOKED_AT)
            return Plan(
                of=of,
                matched=run.matched,
                looked_at=min(run.matched, seen.queued + sum(seen.refused.values())),
                left_out=seen.refused,
                overtaken=seen.overtaken,
                unpaused=[],
            )
        choice = replays.Choice(await query.resolve(connection, _settled(asked)))
        matched = await replays.count(connection, choice)
        redacted = await replays.count_redacted(connection, choice)
        return Plan(
            of=of,
            matched=matched,
            looked_at=matched,
            left_out={"redacted": redacted} if redacted else {},
            overtaken=None,
            unpaused=await replays.unpaused_sources(connection, choice),
        )


async def begin(desk: Desk, of: Of, asked: Asked, operator: Operator) -> str:
    """Write a replay down that goes on by itself; its id. Raises Refusal when nothing fits."""
    async with desk.count(_COUNT_SECONDS) as connection:
        if of == "dead-letters":
            prepared = await deadletters.prepare(connection, await query.resolve(connection, asked))
            if not prepared.matched:
                raise Refusal(409, "No dead letter fits any more.")
            begun = await deadletters.begin(connection, prepared, operator, background=True)
            return begun.replay_id
        choice = replays.Choice(await query.resolve(connection, _settled(asked)))
        matched = await replays.count(connection, choice)
        if not matched:
            raise Refusal(409, "No event fits any more.")
        run = await replays.begin(connection, choice, matched, operator, background=True)
        return run.replay_id


def _settled(asked: Asked) -> Asked:
    state = asked.given.get("state", "delivered")
    if state not in replays.SETTLED:
        raise Refusal(
            400,
            f"state: events that are {state} are not sent again by this; those can be that are"
            f" {' or '.join(replays.SETTLED)}.",
        )
    return msgspec.structs.replace(asked, state=state)


async def cancel(desk: Desk, replay_id: str, operator: Operator) -> None:
    """End a replay with what it has queued. Raises Refusal when there is nothing to end."""
    async with desk.inbox(_COUNT_SECONDS) as connection:
        found = await runs.find_replay(connection, replay_id)
        if found is None:
            raise _unknown(replay_id)
        end = replays.cancel if found.of == "events" else deadletters.cancel
        if not await end(connection, replay_id, operator):
            raise Refusal(409, f"{replay_id} is finished: it has queued {found.queued} events.")


class Glances:
    """What has become of replays. What took long to look for is not looked for all the time."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._one = asyncio.Lock()
        self._seen: dict[tuple[str, bool], tuple[float, Progress | None]] = {}

    async def find(self, replay_id: str) -> tuple[Told, Progress | None]:
        """One replay and its progress: None when that takes too long to look for."""
        async with self._desk.inbox() as connection:
            found = await runs.find_replay(connection, replay_id)
        if found is None:
            raise _unknown(replay_id)
        async with self._one:
            return found, await self._progress(found)

    async def _progress(self, replay: Told) -> Progress | None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        # One that has come to its end since is looked at anew.
        key = (replay.replay_id, replay.is_finished)
        due, progress = self._seen.get(key, (began, None))
        if began < due:
            return progress
        try:
            async with self._desk.inbox() as connection:
                progress = await runs.progress(connection, replay)
        except DATABASE_FAILURES:
            progress = None
        took = loop.time() - began
        self._seen.pop(key, None)
        if took > _QUICK_SECONDS:
            self._seen[key] = (loop.time() + _REST * took, progress)
        if len(self._seen) > _MOST_SEEN:
            del self._seen[next(iter(self._seen))]
        return progress


def _unknown(replay_id: str) -> Refusal:
    return Refusal(404, f"There is no replay {replay_id!r}.")


class Replayer:
    """Goes on with the replays that were begun to go on by themselves."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._open: dict[str, Told] = {}
        self._scan_due = 0.0

    def look_soon(self) -> None:
        """One was begun here."""
        self._scan_due = 0.0

    async def run_once(self) -> int:
        """Bring each a batch further; how many are not finished."""
        now = asyncio.get_running_loop().time()
        if now >= self._scan_due:
            async with self._database.begin() as connection:
                found = await runs.unfinished_in_background(connection)
            self._open = {each.replay_id: each for each in found}
            self._scan_due = now + _SCAN_SECONDS
        for told in list(self._open.values()):
            if await self._is_finished(told):
                self._open.pop(told.replay_id, None)
        return len(self._open)

    async def _is_finished(self, told: Told) -> bool:
        operator = Operator(told.who, told.reason)
        try:
            async with self._database.begin() as connection:
                if told.of == "events":
                    events_run = await replays.find_run(connection, told.replay_id)
                    assert events_run is not None, "it was found in the log"
                    return (await replays.queue_some(connection, events_run, operator)).finished
                run = await deadletters.find_run(connection, told.replay_id)
                assert run is not None, "it was found in the log"
                return (await deadletters.queue_some(connection, run, operator)).finished
        except RelayError as error:
            # Looked at again with the next scan; the others are not kept waiting.
            _log.error("admin.replay_failed", replay_id=told.replay_id, error=error.message)
            return True
