"""The baseline: take one row, produce it, wait for the report, mark it.

python -m benchmarks.naive_forwarder prepare DATABASE_URL
python -m benchmarks.naive_forwarder forward DATABASE_URL KAFKA TOPIC EVENTS

It speaks as the peers do, see `benchmarks.peers`, and reads what the naive receiver stores.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import asyncpg
from confluent_kafka import Producer

from benchmarks import naive_receiver


async def main() -> None:
    verb, url, *rest = sys.argv[1:]
    if verb == "prepare":
        await naive_receiver.create(url)
        return
    kafka, topic, number = rest
    events = int(number)
    pg = await asyncpg.connect(url)
    producer = Producer({"bootstrap.servers": kafka, "acks": "all", "linger.ms": 0})
    done, start, cpu = 0, 0.0, 0.0
    while done < events:
        if not await _step(pg, producer, topic):
            await asyncio.sleep(0.01)
            continue
        done += 1
        if done == events // 5:
            start, cpu = time.perf_counter(), time.process_time()
    measured = events - events // 5
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    print(measured / seconds, used / measured * 1e6)
    await pg.close()


async def _step(pg: asyncpg.Connection, producer: Producer, topic: str) -> bool:
    async with pg.transaction():
        row = await pg.fetchrow(
            "SELECT id, body FROM naive_inbox WHERE status = 'pending'"
            " ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"
        )
        if row is None:
            return False
        payload = json.loads(row["body"])["data"]["object"]
        key = json.dumps({"id": payload["id"]})
        producer.produce(topic, json.dumps(payload).encode(), key.encode())
        producer.flush()
        await pg.execute("UPDATE naive_inbox SET status = 'delivered' WHERE id = $1", row["id"])
    return True


if __name__ == "__main__":
    asyncio.run(main())
