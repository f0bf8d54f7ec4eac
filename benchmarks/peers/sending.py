"""How the peers in Python wait for Kafka: the callback of librdkafka resolves a future."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Any

from confluent_kafka import Message, Producer


class Sender:
    """Sends to a topic, both named on the command line, and prints how fast.

    The clock stops at the last acknowledgement, in the peer's favour: what it takes to settle the
    last batch is not counted.
    """

    def __init__(self) -> None:
        kafka, self._topic, events = sys.argv[3:]
        self.finished = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._events = int(events)
        self._warm = self._events // 5
        self._acknowledged = 0
        self._start = self._cpu = 0.0
        self._producer = Producer(
            {
                "bootstrap.servers": kafka,
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 1,
            }
        )
        threading.Thread(target=self._poll, daemon=True).start()

    async def send(self, event_id: str, key: str, payload: bytes) -> None:
        """Returns with the acknowledgement."""
        acknowledged: asyncio.Future[None] = self._loop.create_future()

        def report(error: Any, _message: Message) -> None:
            assert error is None, error
            self._loop.call_soon_threadsafe(acknowledged.set_result, None)

        headers = [("id", event_id.encode())]
        self._producer.produce(self._topic, payload, key.encode(), headers=headers, callback=report)
        await acknowledged
        self._acknowledged += 1
        if self._acknowledged == self._warm:
            self._start, self._cpu = time.perf_counter(), time.process_time()
        if self._acknowledged == self._events:
            measured = self._events - self._warm
            seconds = time.perf_counter() - self._start
            cpu = time.process_time() - self._cpu
            print(measured / seconds, cpu / measured * 1e6, flush=True)
            self.finished.set()

    def _poll(self) -> None:
        while True:
            self._producer.poll(1.0)
