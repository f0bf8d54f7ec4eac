"""One run: calm, attack, recovery, judgement."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from tests.faults import audited, checker, consumer, evidence, recovery
from tests.faults.attacks import ATTACKS, NotHereError, network
from tests.faults.checker import Attacked
from tests.faults.lanes import Lane
from tests.faults.schedule import Planned
from tests.faults.watch import Watch
from tests.faults.world import OBJECTS, PREFIX, Window, World
from tests.support.processes import eventually

# What they do cannot make a forwarder send a record again; what all the others do can.
_NOT_REPEATING: Final = {
    "kill_receiver",
    "kill_snapshotter",
    "freeze_receiver",
    "freeze_snapshotter",
    "rolling_restart",
    "slow_clients",
    "broken_clients",
    "long_transaction",
    "topic_limit",
    "burst",
    *(name for name in network.ATTACKS if not name.startswith(tuple(network.FORWARDING))),
}
_LATE: Final = "late_records"
_SNAPSHOT_SECONDS: Final = 30.0
_HOUSEKEEPING_SECONDS: Final = 60.0
_MOST_BYTES: Final = {"receiver": 700, "forwarder": 700, "snapshotter": 400}
"""Megabytes that a process of a role may ever have had."""


async def attack(
    lane: Lane,
    seed: int,
    planned: Sequence[Planned],
    seconds: float,
    directory: Path,
    *,
    mutant: str = "",
) -> list[str]:
    """Run it all; the violations."""
    async with World(lane, seed, directory, mutant=mutant) as world:
        violations: list[str] = []
        watch = Watch(world)
        watching = asyncio.create_task(watch.run())
        world.began = time.time()
        world.tell("everything runs", events_per_second=lane.events_per_second)
        sending = asyncio.create_task(world.load.send(lane.connections))
        no_more = asyncio.Event()
        snapshots = asyncio.create_task(_snapshots(world, no_more))
        housekeeping = asyncio.create_task(_housekeeping(world))
        await asyncio.sleep(lane.calm_seconds)
        if _LATE in {each.fault for each in planned}:
            # Once by itself, where nothing else can keep the records from coming.
            await _bring_about(world, Planned(0.0, "alone", _LATE, seed), violations)
        alone_until = began = time.time()
        tracks: dict[str, list[Planned]] = defaultdict(list)
        for each in planned:
            tracks[each.track].append(each)
        running = [_track(world, each, began, violations) for each in tracks.values()]
        await asyncio.gather(*running)
        over = max([window.ended for window in world.windows], default=time.time())
        world.tell("the last fault is over")
        head = await audited.read_head(world)
        await asyncio.sleep(lane.recovery_seconds + 10.0)
        no_more.set()
        world.load.stop()
        world.side.stop()
        await asyncio.wait_for(sending, 120)
        await world.side.send(0)
        # Not cancelled: a command that is starting one would go on, and it would begin at the end.
        await snapshots
        violations += await _drain(world)
        housekeeping.cancel()
        await world.relay("housekeeping")
        watching.cancel()
        exits = await world.stop_processes()
        violations += watch.violations
        violations += _process_violations(world, exits)
        facts = await _facts(world, watch)
        (directory / "facts.msgpack").write_bytes(msgspec.msgpack.encode((facts, watch.backlog)))
        violations += checker.check(facts)
        violations += await _consumer_violations(world, facts)
        violations += await audited.audit(world, [head] if head else [])
        _tell(world, watch, facts)
        violations += _window_violations(world, facts, alone_until + lane.fence_seconds)
        violations += recovery.judge(world, watch, facts.proofs, facts.rows, over)
        return violations


async def _track(
    world: World, faults: Sequence[Planned], began: float, violations: list[str]
) -> None:
    for each in faults:
        await asyncio.sleep(max(began + each.at - time.time(), 0))
        await _bring_about(world, each, violations)


async def _bring_about(world: World, planned: Planned, violations: list[str]) -> None:
    started = time.time()
    world.tell(f"{planned.fault} …")
    try:
        await ATTACKS[planned.fault](world, random.Random(planned.seed))
    except NotHereError as error:
        world.tell(f"{planned.fault} NOT HERE: {error}")
        return
    except Exception as error:
        violations.append(f"{planned.fault} went wrong: {type(error).__name__}: {error}")
        world.tell(f"{planned.fault} went wrong: {type(error).__name__}: {error}")
    world.windows.append(Window(planned.fault, started, time.time()))
    world.tell(f"{planned.fault} is over", seconds=round(time.time() - started, 1))


async def _snapshots(world: World, no_more: asyncio.Event) -> None:
    """Another one now and then."""
    while not no_more.is_set():
        try:
            started = await world.relay("snapshot", "start", "shop")
            world.snapshots.append(started["id"])
        except AssertionError:
            pass  # the database is away, or one is running: as a person would, try again later
        with suppress(TimeoutError):
            await asyncio.wait_for(no_more.wait(), _SNAPSHOT_SECONDS)


async def _housekeeping(world: World) -> None:
    """By whoever owns the schema, as the timer of a deployment does it."""
    while True:
        await asyncio.sleep(_HOUSEKEEPING_SECONDS)
        with suppress(AssertionError):  # the database is away, or another one is at it
            await world.relay("housekeeping")


async def _drain(world: World) -> list[str]:
    """Wait until nothing is pending any more, without any help."""

    async def is_empty() -> bool:
        pg = await world.postgres.connect()
        try:
            return not await pg.fetchval(
                "SELECT EXISTS (SELECT FROM relay.queue) OR EXISTS (SELECT FROM relay.batch_note)"
                " OR EXISTS (SELECT FROM relay.snapshots WHERE state = 'running')"
            )
        finally:
            await pg.close()

    try:
        await eventually(is_empty, deadline=world.lane.drained_seconds)
    except TimeoutError:
        pg = await world.postgres.connect()
        left = await pg.fetchval("SELECT count(*) FROM relay.queue")
        await pg.close()
        return [
            f"{left} rows are still in the queue {world.lane.drained_seconds:.0f} s after the end"
        ]
    return []


def _process_violations(world: World, exits: Sequence[int | None]) -> list[str]:
    found = []
    for slot, status in zip(world.slots.values(), exits, strict=True):
        if status not in (0, None):
            found.append(f"{slot.name} ended with {status} when it was asked to end")
        for at, code in slot.ended:
            # What the hook in its transform does.
            if not (code == 139 and slot.role == "forwarder"):
                found.append(f"{slot.name} ended by itself with {code} at {at - world.began:.1f} s")
        if slot.most_memory > _MOST_BYTES[slot.role] * 1_000_000:
            found.append(f"{slot.name} had {slot.most_memory / 1e6:.0f} MB")
    return found


async def _facts(world: World, watch: Watch) -> Attacked:
    pg = await world.postgres.connect()
    try:
        rows = await evidence.read_inbox(pg)
        proofs = await evidence.read_receipts(pg)
        states = {
            row["id"]: row["state"]
            for row in await pg.fetch("SELECT id, state FROM relay.snapshots")
        }
    finally:
        await pg.close()
    records = await evidence.read_records(world.kafka.cluster.bootstrap_servers, PREFIX)
    lane = world.lane
    # A lost batch is retaken when its lanes are free, and then tried row by row.
    aftermath = lane.frozen_seconds + lane.fence_seconds + 30.0
    listed = {name: set(world.stripe.resource(name, live=True).ids()) for name in OBJECTS}
    return Attacked(
        posted=[*world.load.posted, *world.side.posted, *world.uploaded],
        rows=rows,
        proofs=proofs,
        records=records,
        expected_dead=world.expected_dead,
        deleted_topics=world.deleted_topics,
        lost=watch.lost,
        put_aside=watch.put_aside,
        explained=[
            *(
                (window.began, window.ended + aftermath)
                for window in world.windows
                if window.fault not in _NOT_REPEATING
            ),
            *_not_acknowledged_in_time(world),
        ],
        late=[(at - 0.5, at + lane.fence_seconds + 2.0) for at in world.thaws],
        snapshots={each: listed for each in world.snapshots if states.get(each) == "finished"},
    )


async def _consumer_violations(world: World, facts: Attacked) -> list[str]:
    """What a client of the topics makes of it, of those that still have all their records."""
    topics = {record.place[0] for record in facts.records} - facts.deleted_topics.keys()
    states = await consumer.read_states(
        world.kafka.cluster.bootstrap_servers, topics, world.directory / "consumer.db"
    )
    return consumer.judge(states, facts.proofs, topics)


def _window_violations(world: World, facts: Attacked, alone_until: float) -> list[str]:
    """Tell how wide the one window was; it must have been open when nothing else was wrong."""
    overtaken = checker.overtaken_records(facts)
    seconds = sorted(each.seconds for each in overtaken)
    world.tell(
        "the window:",
        late=len(checker.late_records(facts)),
        behind_newer=len(overtaken),
        keys=len({each.record.key for each in overtaken}),
        seconds=f"{seconds[0]:.1f} to {seconds[-1]:.1f}" if seconds else "-",
    )
    planned = any(window.fault == _LATE for window in world.windows)
    if planned and not any(each.record.at <= alone_until for each in overtaken):
        return [
            "records were kept on their way, and none came late: the rig did not see the window"
        ]
    return []


def _not_acknowledged_in_time(world: World) -> list[tuple[float, float]]:
    """When a forwarder put records aside, which is a fault of nobody's: a busy machine is slow."""
    found = []
    for log in world.directory.glob("forwarder-*.log"):
        for line in log.read_text().splitlines():
            if '"forwarder.batch"' in line and (told := json.loads(line))["parked"]:
                at = datetime.fromisoformat(told["timestamp"]).timestamp()
                found.append((at - 2 * world.lane.fence_seconds, at + 2 * world.lane.fence_seconds))
    return found


def _tell(world: World, watch: Watch, facts: Attacked) -> None:
    repeats = len(facts.records) - len({proof.place for proof in facts.proofs})
    world.tell(f"answers: {dict(sorted(world.load.answers.items()))}")
    world.tell(
        "counts:",
        faults=len(world.windows),
        posted=len(facts.posted),
        inbox=len(facts.rows),
        records=len(facts.records),
        repeats=repeats,
        snapshots=len(facts.snapshots),
        kills=len(world.deaths),
    )
    memory = {slot.name: f"{slot.most_memory / 1e6:.0f}MB" for slot in world.slots.values()}
    world.tell("most memory:", **memory)
