"""`/metrics`: the process's own counters, and what the database says."""

from __future__ import annotations

from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

from relay.core.source import SourceConfig
from relay.forwarder import ForwarderCounters
from relay.metrics import Metrics
from relay.receiver import Receiver
from relay.store import sources
from relay.store.engine import Database
from relay.store.sealing import Seal


def values(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


async def test_counters_and_figures(database: Database) -> None:
    async with database.begin() as connection:
        config = SourceConfig(source_id=0, public_id="", name="shop", insecure=True)
        await sources.create(connection, config, sealed_secrets=[], sealed_stripe_key=None)
    receiver = Receiver(database, Seal([]))
    receiver.counters.answers = Counter({(200, "stored"): 3, (400, "signature_wrong"): 1})
    forwarder = ForwarderCounters()
    forwarder.events_dead["too_large"] += 2
    page = await Metrics(database, receiver=receiver, forwarder=forwarder, kafka=None).render()
    found = values(page)
    answered = ("relay_http_answers_total", (("result", "stored"), ("status", "200")))
    assert found[answered] == 3
    assert found["relay_events_dead_total", (("code", "too_large"),)] == 2
    assert found["relay_pending_events", (("source", "shop"),)] == 0
    assert found["relay_database_up", ()] == 1
    assert found["relay_partitions_ahead_days", ()] > 1
    # Nothing waits, so there is no oldest event: no figure, and not 0.
    assert not [name for name, _ in found if name == "relay_oldest_pending_seconds"]


async def test_an_unknown_figure_is_missing_and_not_0() -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/nowhere")
    try:
        page = await Metrics(away, receiver=None, forwarder=None, kafka=None).render()
    finally:
        await away.close()
    found = values(page)
    assert found["relay_database_up", ()] == 0
    assert not [name for name, _ in found if name == "relay_pending_events"]
