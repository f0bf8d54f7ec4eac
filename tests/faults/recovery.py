"""How long it took until things were back to normal."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from statistics import quantiles

from tests.faults.evidence import Proof, Row
from tests.faults.watch import Watch
from tests.faults.world import World

_BUCKET_SECONDS = 5.0


def judge(
    world: World, watch: Watch, proofs: Sequence[Proof], rows: Sequence[Row], over: float
) -> list[str]:
    """Tell the figures; the violations. ``over`` is when the last fault ended."""
    offset = time.time() - time.monotonic()
    answered = sorted(each.answered + offset for each in world.load.posted if each.answered)
    produced = sorted(proof.produced_at for proof in proofs)
    for what, at in world.recoveries:
        if "brokers" in what:
            world.tell(f"{what} → backlog moving", seconds=_after(produced, at))
        elif "standby" not in what:
            world.tell(f"{what} → first 2xx", seconds=_after(answered, at))
    if watch.takeovers:
        seconds = sorted(watch.takeovers)
        world.tell(
            "rows of a dead forwarder taken over",
            times=len(seconds),
            median=round(seconds[len(seconds) // 2], 1),
            most=round(seconds[-1], 1),
        )
    requests = [
        (each.began + offset, each.answered - each.began)
        for each in world.load.posted
        if each.answered
    ]
    received = {row.inbox_id: row.received_at for row in rows if row.origin == "webhook"}
    ways = [
        (received[proof.inbox_id], proof.produced_at - received[proof.inbox_id])
        for proof in proofs
        if proof.inbox_id in received
    ]
    return [
        *_back_to_normal(world, "an answer", requests, over),
        *_back_to_normal(world, "the way into Kafka", ways, over),
    ]


def _after(moments: Sequence[float], at: float) -> str:
    following = [moment for moment in moments if moment >= at]
    return f"{following[0] - at:.2f}" if following else "never"


def _back_to_normal(
    world: World, what: str, times: Sequence[tuple[float, float]], over: float
) -> list[str]:
    """95 % as fast as before the attack, within the time that the lane gives for it."""
    calm_from = world.began + world.lane.calm_seconds / 2  # topics have been made by then
    calm_until = world.began + world.lane.calm_seconds
    calm = [took for at, took in times if calm_from <= at < calm_until]
    # A snapshot may put about a second's work before live events; a machine with neighbours more.
    limit = max(3.0 * _p95(calm), 3.0)
    buckets: dict[int, list[float]] = defaultdict(list)
    for at, took in times:
        if at >= over:
            buckets[int((at - over) // _BUCKET_SECONDS)].append(took)
    slow = [number for number, took in buckets.items() if _p95(took) > limit]
    back = (max(slow) + 1) * _BUCKET_SECONDS if slow else 0.0
    world.tell(
        f"95 % of {what}",
        calm=f"{_p95(calm):.3f}",
        end=f"{_p95(buckets[max(buckets)]) if buckets else 0:.3f}",
        back_to_normal_after=back,
    )
    if back > world.lane.recovery_seconds:
        return [
            f"95 % of {what} took more than {limit:.1f} s for {back:.0f} s after the last fault"
        ]
    return []


def _p95(times: Sequence[float]) -> float:
    return quantiles(times, n=20)[-1] if len(times) > 1 else max(times, default=0.0)
