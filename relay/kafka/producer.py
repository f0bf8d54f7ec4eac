"""The producer: plain, idempotent, with ``acks=all``.

Its delivery reports come from a thread of its own and wake the event loop once per batch.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from relay.core.record import Record
from relay.kafka import config
from relay.kafka.clientlog import client_log
from relay.kafka.statistics import INTERVAL, Listener, Statistics
from relay.kafka.topics import Topics
from relay.kafka.trouble import Troubles
from relay.kafka.verdict import Acknowledged, Failure, Report, arrived_somewhere, classify

_log = structlog.get_logger("relay.kafka")

_PROBE_SECONDS = 3.0
# While the settings seem wrong: certificates on disk may have been renewed meanwhile, and only a
# new client reads them.
_RENEW_SECONDS = 30.0


class QueueFullError(Exception):
    """The producer's queue is full: back-pressure."""


class Flight:
    """The records of one batch on their way: collects the reports and wakes the loop once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._landed = asyncio.Event()
        self._outstanding = 1  # until land(): a report may come while the batch is handed over
        self._lock = threading.Lock()
        self.reports: list[Report] = []

    def add(self) -> Callable[[KafkaError | None, Message], None]:
        """A place for one more record; returns what takes its report."""
        with self._lock:
            self._outstanding += 1
        self.reports.append(None)
        return partial(self._report, len(self.reports) - 1)

    def refuse(self, failure: Failure) -> None:
        """The record added last was not taken by the client."""
        self.reports[-1] = failure
        self._count_down()

    def withdraw(self) -> None:
        """Forget the record added last: the client has not seen it."""
        self.reports.pop()
        self._count_down()

    def _report(self, place: int, error: KafkaError | None, message: Message) -> None:
        partition = message.partition()
        offset = message.offset()
        partition = -1 if partition is None else partition
        if error is not None:
            self.reports[place] = classify(error, partition)
        elif offset is None or offset < 0:
            self.reports[place] = arrived_somewhere(partition)
        else:
            self.reports[place] = Acknowledged(partition, offset)
        self._count_down()

    def _count_down(self) -> None:
        with self._lock:
            self._outstanding -= 1
            landed = self._outstanding == 0
        if landed:
            self._loop.call_soon_threadsafe(self._landed.set)

    async def land(self) -> None:
        """Wait for the report of every record; each comes within the delivery time-out."""
        self._count_down()
        await self._landed.wait()


class Kafka:
    """One producer with what belongs to it: topics, health and the thread of the reports.

    ``properties`` are librdkafka's. Raises ConfigError when it refuses one of them.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        properties: Mapping[str, str] | None = None,
        *,
        delivery_timeout_seconds: float = 10.0,
        auto_create: bool = True,
        partitions: int = 6,
        replication_factor: int = -1,
    ) -> None:
        connection = config.connection(bootstrap_servers, properties)
        self._troubles = Troubles(connection.get("security.protocol"))
        self._made_at = 0.0
        self._listener = Listener()
        self._config: dict[str, Any] = {
            **config.producer(connection, delivery_timeout_seconds),
            "error_cb": self._on_error,
            "stats_cb": self._listener.take,
        }
        self.rebuilds = 0
        """Producers that were replaced by a new one."""
        self._down = threading.Event()
        self._lost = threading.Event()
        self._stopped = threading.Event()
        self._poller: threading.Thread | None = None
        self._producer = self._make()
        self._statistics_seconds = int(self._config[INTERVAL]) / 1000
        self.topics = Topics(
            connection,
            auto_create=auto_create,
            partitions=partitions,
            replication_factor=replication_factor,
        )

    def _make(self) -> Producer:
        self._made_at = time.monotonic()
        try:
            return Producer(self._config, logger=client_log())
        except (KafkaException, ValueError) as error:
            raise config.refused(error) from error

    def start(self) -> None:
        """Start the thread that serves the delivery reports."""
        self._stopped.clear()
        self._poller = threading.Thread(target=self._serve, name="kafka-reports", daemon=True)
        self._poller.start()

    def _serve(self) -> None:
        while not self._stopped.is_set():
            try:
                self._producer.poll(0.2)
            except KafkaException as error:
                # This is how a fatal error is told: not by the callback, and once.
                self._lost.set()
                _log.error("kafka.producer_fatal", error=str(error.args[0]))
            except Exception:
                # Out of a callback. Without this thread no batch would ever land again.
                _log.exception("kafka.report_failed")

    def _on_error(self, error: KafkaError) -> None:
        trouble = self._troubles.note(error)
        if trouble is not None:
            _log.error("kafka.cannot_connect", error=trouble.said, fix=trouble.fix)
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.mark_down()

    @property
    def is_down(self) -> bool:
        """Every broker is away; claiming would only make rows wait elsewhere."""
        return self._down.is_set()

    @property
    def statistics(self) -> Statistics | None:
        """The client's own, some seconds old; None while there are none."""
        return self._listener.latest(self._statistics_seconds)

    def mark_down(self) -> None:
        """No broker is there; the caller may have seen a whole batch fail for want of one."""
        if not self._down.is_set():
            self._down.set()
            _log.warning("kafka.away", reason=str(self._troubles.why()))

    @property
    def trouble(self) -> str | None:
        """Why it is down and what to do about it; None while it is not."""
        return str(self._troubles.why()) if self.is_down else None

    async def probe(self) -> bool:
        """Ask the cluster whether it is there; clears ``is_down`` when it is."""
        try:
            # About all topics: one by name would be made by brokers that make topics.
            await asyncio.to_thread(self._producer.list_topics, timeout=_PROBE_SECONDS)
        except KafkaException as error:
            if classify(error.args[0]).verdict == "transient":
                self._renew_later()
                return False
        self._troubles.clear()
        if self._down.is_set():
            self._down.clear()
            _log.info("kafka.back")
        return True

    def _renew_later(self) -> None:
        if self._troubles.is_lasting and time.monotonic() - self._made_at > _RENEW_SECONDS:
            self._lost.set()

    def produce(self, record: Record, flight: Flight) -> None:
        """Hand a record to the client; its report goes to ``flight``.

        Raises QueueFullError, and then ``flight`` does not know of the record.
        """
        report = flight.add()
        try:
            self._producer.produce(
                record.topic,
                value=record.value,
                key=record.key,
                headers=list(record.headers),
                on_delivery=report,
            )
        except BufferError:
            flight.withdraw()
            raise QueueFullError from None
        except KafkaException as error:
            flight.refuse(classify(error.args[0]))

    async def purge(self) -> None:
        """Throw away what has not been acknowledged; its reports come as transient failures."""
        await asyncio.to_thread(self._producer.purge, True, True, False)

    @property
    def needs_rebuild(self) -> bool:
        """Whether only a new producer can go on."""
        return self._lost.is_set()

    def mark_lost(self) -> None:
        """The caller has a report that says so (``Failure.producer_lost``)."""
        self._lost.set()

    async def rebuild(self) -> None:
        """A new producer in place of the old one, of which nothing may be in flight."""
        await asyncio.to_thread(self._renew)
        self._lost.clear()
        self.rebuilds += 1
        self.start()
        _log.warning("kafka.producer_rebuilt")

    def _renew(self) -> None:
        # In a thread: the end of the old producer waits for the threads of librdkafka.
        made = self._make()  # first: a file that it needs may be missing at the moment
        self._end()
        self._producer = made
        self.topics.renew()

    def _stop_poller(self) -> None:
        self._stopped.set()
        if self._poller is not None:
            self._poller.join()
            self._poller = None

    async def close(self) -> None:
        """Stop. The caller has let its flights land; whatever else there is, is thrown away."""
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._stop_poller()
        self._producer.purge(True, True, False)
        if self._producer.flush(1.0) == 0:
            self._producer.close()
