"""The gate: a suspect is alone in its process, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from relay.forwarder.gate import Gate


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Visit:
    """Enters a gate in a task of its own and stays until it is told to leave."""

    def __init__(self, gate: Gate, *, alone: bool) -> None:
        self.inside = False
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._run(gate, alone))

    async def _run(self, gate: Gate, alone: bool) -> None:
        async with gate.enter(alone=alone):
            self.inside = True
            await self._leave.wait()
        self.inside = False

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def test_ordinary_batches_are_inside_together() -> None:
    gate = Gate()
    one, two = Visit(gate, alone=False), Visit(gate, alone=False)
    await turns()
    assert one.inside
    assert two.inside
    await one.leave()
    await two.leave()


async def test_one_that_must_be_alone_waits_for_the_others_and_keeps_new_ones_out() -> None:
    gate = Gate()
    before = Visit(gate, alone=False)
    await turns()
    alone = Visit(gate, alone=True)
    await turns()
    after = Visit(gate, alone=False)
    await turns()
    assert (before.inside, alone.inside, after.inside) == (True, False, False)
    await before.leave()
    await turns()
    assert (alone.inside, after.inside) == (True, False)
    await alone.leave()
    await turns()
    assert after.inside
    await after.leave()


async def test_two_that_must_be_alone_follow_each_other() -> None:
    gate = Gate()
    one, two = Visit(gate, alone=True), Visit(gate, alone=True)
    await turns()
    assert one.inside != two.inside
    first, second = (one, two) if one.inside else (two, one)
    await first.leave()
    await turns()
    assert second.inside
    await second.leave()


async def test_a_cancelled_wait_opens_the_gate_again() -> None:
    gate = Gate()
    before = Visit(gate, alone=False)
    await turns()
    alone = Visit(gate, alone=True)
    await turns()
    alone.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await alone.task
    after = Visit(gate, alone=False)
    await turns()
    assert after.inside
    await before.leave()
    await after.leave()


async def test_an_error_inside_opens_the_gate_again() -> None:
    gate = Gate()
    with pytest.raises(RuntimeError):
        await _fail(gate)
    async with gate.enter(alone=False):
        pass


async def _fail(gate: Gate) -> None:
    async with gate.enter(alone=True):
        raise RuntimeError
