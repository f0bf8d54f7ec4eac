"""The page: what this process has counted, and what the database says.

Counters are this process's own. What is read from the database (pending, dead, …) is the same in
every process, so a dashboard takes the maximum of it and not the sum. Labels are bounded: names of
sources, numbers of brokers, and words of ours.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Final

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from relay import snapshotter
from relay.forwarder import Shared
from relay.metrics.database import Bounds, DatabaseFigures
from relay.metrics.families import gauge
from relay.metrics.figures import groups
from relay.metrics.forwarder import of_forwarder
from relay.metrics.kafka import of_kafka
from relay.metrics.receiver import of_receiver
from relay.metrics.snapshotter import of_snapshotter
from relay.receiver import Receiver
from relay.store.engine import Database
from relay.store.schema import BUILD_REVISION

_BUILD: Final = gauge("relay_build_info", "1, labelled with what runs.", "version", "python")
_SCHEMA: Final = gauge(
    "relay_build_schema_revision", "Revision of the schema that this build knows."
)


class Metrics:
    """Collects what this process knows. Parts that do not run here are left out."""

    def __init__(
        self,
        database: Database,
        *,
        receiver: Receiver | None = None,
        forwarding: Shared | None = None,
        snapshots: snapshotter.Shared | None = None,
        retention_days: int = 0,
        bounds: Bounds | None = None,
    ) -> None:
        self._receiver = receiver
        self._forwarding = forwarding
        self._snapshots = snapshots
        self._figures = DatabaseFigures(database, groups(retention_days), bounds)
        self._process = ProcessCollector(registry=None)
        self._build = _BUILD.filled([((version("relay"), platform.python_version()), 1)])

    async def render(self) -> bytes:
        """The whole page, within the deadline of the database's figures."""
        figures = await self._figures.collect()
        metrics = [self._build, _SCHEMA.filled(BUILD_REVISION), *self._process.collect()]
        if self._receiver is not None:
            metrics += of_receiver(self._receiver)
        if self._forwarding is not None:
            metrics += of_forwarder(self._forwarding)
            metrics += of_kafka(self._forwarding.kafka)
        if self._snapshots is not None:
            metrics += of_snapshotter(self._snapshots)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected([*metrics, *figures]))
        return generate_latest(registry)

    def routes(self) -> list[HTTPRouteHandler]:
        """The Litestar handler of /metrics."""

        @get("/metrics", include_in_schema=False)
        async def metrics() -> Response[bytes]:
            return Response(await self.render(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

        return [metrics]

    async def close(self) -> None:
        await self._figures.close()


class _Collected(Collector):
    """Hands over metrics that were collected already: the library's own way is not async."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
