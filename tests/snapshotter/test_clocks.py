"""The rate holds whatever becomes of the clock of PostgreSQL."""

from __future__ import annotations

import asyncio

import pytest

from relay.store import rates
from relay.store.engine import Database

WANTED = {rates.ALL_ENDPOINTS: 10.0, "/v1/charges": 10.0}


@pytest.mark.parametrize("ahead", ["1 second", "1 minute", "10 hours"])
async def test_a_clock_that_was_set_back_neither_frees_nor_stops(
    database: Database, ahead: str
) -> None:
    async with database.driver() as pg:
        await rates.prepare(pg, "acct", ["/v1/charges"])
        await pg.execute(
            "UPDATE relay.api_rate SET slowed_at = now() + $1::text::interval,"
            " next_at = now() + $1::text::interval, factor = 0.5",
            ahead,
        )
        first = await rates.reserve(pg, "acct", WANTED, 1.0)
        assert first <= 1 + 1 / 5
        await pg.execute("UPDATE relay.api_rate SET next_at = now()")
        turns = [await rates.reserve(pg, "acct", WANTED, 1.0) for _ in range(4)]
        # At half the rate, since the time that brings it back has not passed.
        assert turns[3] == pytest.approx(3 / 5, abs=0.1)
        await rates.slow_down(pg, "acct", "/v1/charges")
        factor = await pg.fetchval(
            "SELECT factor FROM relay.api_rate WHERE endpoint = '/v1/charges'"
        )
        assert factor == pytest.approx(0.35, abs=0.01)


async def test_what_nobody_used_may_be_used_late_and_no_more(database: Database) -> None:
    wanted = {rates.ALL_ENDPOINTS: 50.0, "/v1/charges": 50.0}
    clock = asyncio.get_running_loop().time
    async with database.driver() as pg:
        await rates.prepare(pg, "acct", ["/v1/charges"])
        begun = clock()
        for number in range(20):
            seconds = await rates.reserve(pg, "acct", wanted, 1.0)
            assert clock() + seconds >= begun + number / 50 - rates.SLACK_SECONDS


async def test_a_wait_for_an_endpoint_leaves_turns_before_it_to_others(database: Database) -> None:
    charges, customers = "/v1/charges", "/v1/customers"
    account = {rates.ALL_ENDPOINTS: 1000.0}
    async with database.driver() as pg:
        await rates.prepare(pg, "acct", [charges, customers])
        await pg.execute(
            "UPDATE relay.api_rate SET next_at = clock_timestamp() + interval '10 seconds'"
            " WHERE endpoint = $1",
            charges,
        )
        waits = await rates.reserve(pg, "acct", account | {charges: 25.0}, 10.0)
        others = await rates.reserve(pg, "acct", account | {customers: 25.0}, 10.0)
        # Not behind it, but before it by the slack.
        assert others < waits - rates.SLACK_SECONDS / 2
