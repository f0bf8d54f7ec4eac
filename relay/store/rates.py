"""How fast the Stripe API may be asked: one clock per account and endpoint, for all processes.

Every request is given the moment at which it may be sent, and moves the clock on by what a request
costs at the present rate (GCRA). A clock may be up to ``SLACK_SECONDS`` behind the moment it gives
out: so much of what nobody used may be used late, and of the turns of the account that lie before a
request that waits for its endpoint so many are left to others. When Stripe says that it was too
fast, the rate falls by a third, and comes back within seconds: under steady refusals it settles at
a third.

The time is the server's, and may be set back, or be another one's after a failover: a moment that
lies further ahead than any that is given out counts for as far as that, and time that has not
passed yet as none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg

from relay.store.engine import READ_COMMITTED

ALL_ENDPOINTS = ""
"""The endpoint that stands for all of an account together."""

RECOVERY_SECONDS = 10.0
"""From a standstill back to the full rate."""

SLACK_SECONDS = 0.05
"""At 100 requests a second, 10 ms each, six of them may come at once."""

_SLOWEST = 1 / 16
_SLOWER = 0.7
_PRESENT_FACTOR = (
    "least(1, r.factor + greatest(extract(epoch FROM clock_timestamp() - r.slowed_at), 0)"
    f" / {RECOVERY_SECONDS})"
)

# A request that would have to wait for long is given nothing and moves no clock. One statement that
# is its own transaction: it does not wait for the disk, since what a crash of the server takes back
# of it is one request.
_RESERVE = f"""
WITH quick AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), clocks AS (
    SELECT r.account, r.endpoint, {_PRESENT_FACTOR} AS factor, w.rate,
           least(r.next_at, clock_timestamp()
                 + make_interval(secs => $4 + 1 / (w.rate * {_PRESENT_FACTOR}))) AS next_at
    FROM unnest($2::text[], $3::float8[]) AS w (endpoint, rate)
    JOIN relay.api_rate r ON r.account = $1 AND r.endpoint = w.endpoint
    ORDER BY r.endpoint FOR UPDATE OF r
), turn AS (
    SELECT greatest(max(next_at), clock_timestamp()) AS at FROM clocks, quick
), moved AS (
    UPDATE relay.api_rate r
    SET next_at = greatest(c.next_at, turn.at - make_interval(secs => {SLACK_SECONDS}))
                  + make_interval(secs => 1 / (c.rate * c.factor))
    FROM clocks c, turn
    WHERE r.account = c.account AND r.endpoint = c.endpoint
      AND turn.at <= clock_timestamp() + make_interval(secs => $4)
)
SELECT greatest(extract(epoch FROM at - clock_timestamp()), 0)::float8 FROM turn
"""  # noqa: S608 - constants of ours


async def prepare(pg: asyncpg.Connection, account: str, endpoints: Sequence[str]) -> None:
    """Make the clocks that are missing."""
    await pg.execute(
        """
        INSERT INTO relay.api_rate (account, endpoint)
        SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING
        """,
        account,
        [ALL_ENDPOINTS, *endpoints],
    )


async def reserve(
    pg: asyncpg.Connection, account: str, rates: Mapping[str, float], most_seconds: float
) -> float:
    """Seconds until one request may be sent; above ``most_seconds`` nothing was reserved.

    ``rates`` are requests a second by endpoint, the one for all of them included. The clocks must
    exist (``prepare``), and ``pg`` is not in a transaction.
    """
    while True:
        try:
            seconds: float = await pg.fetchval(
                _RESERVE, account, list(rates), list(rates.values()), most_seconds
            )
        except asyncpg.SerializationError:
            continue  # the server's default is stricter than READ COMMITTED; others were faster
        return seconds


async def slow_down(pg: asyncpg.Connection, account: str, endpoint: str) -> None:
    """Lower a rate, because Stripe refused a request; once a second at most."""
    async with pg.transaction(isolation=READ_COMMITTED):
        await pg.execute(
            f"""
            UPDATE relay.api_rate r
            SET factor = greatest({_PRESENT_FACTOR} * {_SLOWER}, {_SLOWEST}),
                slowed_at = clock_timestamp()
            WHERE account = $1 AND endpoint = $2
              AND (r.factor = 1 OR clock_timestamp() NOT BETWEEN r.slowed_at
                                                            AND r.slowed_at + interval '1 second')
            """,  # noqa: S608 - constants of ours
            account,
            endpoint,
        )
