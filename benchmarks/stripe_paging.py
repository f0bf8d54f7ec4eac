"""The baseline: the auto-paging of Stripe's own package, one list after the other.

python -m benchmarks.stripe_paging URL KEY OBJECTS [DATABASE_URL]

Reads so many objects of each list, stores them with one INSERT per object and one transaction per
page if there is a database, and prints `{"seconds": …, "cpu": …}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice

import asyncpg
import stripe

PAGE = 100
LISTS = {
    "customer": "customers",
    "charge": "charges",
    "payment_intent": "payment_intents",
    "invoice": "invoices",
    "invoiceitem": "invoice_items",
    "credit_note": "credit_notes",
    "refund": "refunds",
    "payout": "payouts",
}
"""Resources, and what the package calls their lists."""


def main() -> None:
    url, key, objects = sys.argv[1:4]
    client = stripe.StripeClient(key, base_addresses={"api": url})
    with asyncio.Runner() as runner:
        pg = runner.run(_connect(sys.argv[4])) if len(sys.argv) > 4 else None
        start, cpu = time.perf_counter(), time.process_time()
        for name in LISTS.values():
            pages = getattr(client.v1, name).list({"limit": PAGE})
            for page in _batches(islice(pages.auto_paging_iter(), int(objects))):
                if pg is not None:
                    runner.run(_store(pg, page))
        print(
            json.dumps({"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu})
        )


def _batches(objects: Iterable[stripe.StripeObject]) -> Iterator[list[stripe.StripeObject]]:
    listed = iter(objects)
    while page := list(islice(listed, PAGE)):
        yield page


async def _connect(url: str) -> asyncpg.Connection:
    pg = await asyncpg.connect(url)
    await pg.execute("CREATE TABLE naive_object (id text PRIMARY KEY, body jsonb NOT NULL)")
    return pg


async def _store(pg: asyncpg.Connection, page: list[stripe.StripeObject]) -> None:
    async with pg.transaction():
        for each in page:
            await pg.execute(
                "INSERT INTO naive_object (id, body) VALUES ($1, $2)"
                " ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                each["id"],
                json.dumps(each.to_dict(), default=str),
            )


if __name__ == "__main__":
    main()
