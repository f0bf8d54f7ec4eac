"""The fake as a process of its own: prints its URL and serves until a signal ends it."""

from __future__ import annotations

import asyncio
import sys

import click

from relay.dev import parts
from relay.dev.stripe_api.kinds import KINDS
from relay.dev.stripe_api.limits import Limits
from relay.dev.stripe_api.server import FakeStripe


def _read_objects(_ctx: click.Context, _param: click.Parameter, value: str) -> dict[str, int] | int:
    if value.isdigit():
        return int(value)
    counts = {}
    for part in value.split(","):
        name, _, count = part.partition("=")
        if name not in KINDS or not count.isdigit():
            raise click.BadParameter(f"{part!r} is not RESOURCE=NUMBER; known: {', '.join(KINDS)}")
        counts[name] = int(count)
    return counts


@click.command()
@click.option(
    "--objects",
    default="1000",
    show_default=True,
    metavar="N|RESOURCE=N,…",
    callback=_read_objects,
    help="How many; a number alone is spread over all resources.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--port", type=int, default=0, show_default=True, help="0: any free one.")
@click.option("--account-limit", type=int, help="Requests a second in all.")
@click.option("--endpoint-limit", type=int, help="Requests a second for one resource.")
def main(
    objects: dict[str, int] | int,
    seed: int,
    port: int,
    account_limit: int | None,
    endpoint_limit: int | None,
) -> None:
    """A fake of the Stripe API's lists on loopback. Prints one line: its URL and a key."""
    limits = Limits(account_limit, endpoint_limit)
    ended = asyncio.Event()

    def end() -> bool:
        ended.set()
        return True

    fake = FakeStripe(objects, seed=seed, port=port, limits=limits)
    sys.exit(parts.run(_serve(fake, ended), on_signal=end))


async def _serve(fake: FakeStripe, ended: asyncio.Event) -> int:
    async with fake:
        print(f"{fake.url} {fake.key}", flush=True)
        await ended.wait()
    return 0


if __name__ == "__main__":
    main()
