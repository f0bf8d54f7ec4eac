"""Exact numbers for traffic that is known."""

from __future__ import annotations

import platform

from relay.store.schema import BUILD_REVISION
from tests.metrics.scrape import Page
from tests.metrics.world import all_roles, send_known_traffic


def _settled(page: Page) -> bool:
    """All is delivered, dead or halted, and the database's figures are from after that."""
    waiting = page.all("relay_source_pending_events", "source")
    return (
        page.get("relay_forwarder_records_delivered_total") == 7
        and waiting == {"shop": 0, "quiet": 0, "strict": 1, "paused": 1}
        and page.get("relay_source_halted", source="strict") == 1
        and page.get("relay_kafka_broker_connected", broker=_a_broker(page)) == 1
    )


def _a_broker(page: Page) -> str:
    return next(iter(page.all("relay_kafka_broker_connected", "broker")), "")


def _some(values: dict[str, float]) -> dict[str, float]:
    return {word: value for word, value in values.items() if value}


async def test_every_number_of_known_traffic(
    database_url: str, kafka: str, topic_prefix: str
) -> None:
    async with all_roles(database_url, kafka, topic_prefix) as world:
        before = await world.scrape()
        await send_known_traffic(world)
        page = await world.scrape_until(_settled)
        _check_receiver(page, world.body_bytes)
        _check_forwarder(page)
        _check_sources(page)
        _check_the_rest(page)
        # The closed sets of labels are there from the start, and at 0.
        assert before.get("relay_receiver_requests_total", status="200", result="stored") == 0
        assert before.get("relay_forwarder_events_dead_total", code="too_large") == 0
        for secret in [*world.secrets, database_url]:
            assert secret not in page.text


def _check_receiver(page: Page, body_bytes: int) -> None:
    assert _some(page.all("relay_receiver_requests_total", "result")) == {
        "stored": 10,
        "duplicate": 2,
        "dead_letter": 1,
        "signature_wrong": 1,
        "unauthorized": 1,
    }
    assert page.get("relay_receiver_requests_total", status="401", result="unauthorized") == 1
    assert page.get("relay_receiver_body_bytes_total") == body_bytes
    assert page.get("relay_receiver_events_stored_total") == 11
    assert page.get("relay_receiver_events_duplicate_total") == 2
    assert _some(page.all("relay_receiver_events_dead_total", "code")) == {"thin_payload": 1}
    # One client, one request at a time: each had a group commit of its own.
    assert page.get("relay_receiver_commit_rows_count") == 13
    assert page.get("relay_receiver_commit_rows_sum") == 13
    assert page.get("relay_receiver_commit_rows_bucket", le="1") == 13
    assert page.get("relay_receiver_commit_seconds_bucket", le="+Inf") == 13
    assert (page.get("relay_receiver_commit_seconds_sum") or 0) > 0
    assert page.get("relay_receiver_commit_failures_total") == 0
    assert page.get("relay_receiver_refused_samples_total", result="kept") == 1
    assert page.get("relay_receiver_in_flight_bytes") == 0
    assert page.get("relay_receiver_requests_in_flight") == 0
    assert page.get("relay_receiver_queued_events") == 0


def _check_forwarder(page: Page) -> None:
    assert page.get("relay_forwarder_events_delivered_total") == 5
    assert page.get("relay_forwarder_dead_letter_copies_delivered_total") == 2
    assert _some(page.all("relay_forwarder_events_skipped_total", "reason")) == {
        "unselected": 1,
        "livemode_mismatch": 1,
    }
    assert _some(page.all("relay_forwarder_events_dead_total", "code")) == {"no_route": 1}
    assert page.get("relay_forwarder_sources_halted_total") == 1
    assert page.get("relay_forwarder_batches_lost_total") == 0
    batches = page.get("relay_forwarder_batch_seconds_count")
    assert batches
    assert page.get("relay_forwarder_produce_seconds_count") == batches
    assert page.get("relay_forwarder_batch_rows_count") == batches
    # Of each of the 11 events, and of the 2 copies.
    assert (page.get("relay_forwarder_batch_rows_sum") or 0) >= 11
    assert page.get("relay_kafka_up") == 1
    assert page.get("relay_kafka_queue_messages") == 0
    assert page.get("relay_kafka_queue_limit_messages") == 200_000


def _check_sources(page: Page) -> None:
    def of(figure: str) -> dict[str, float]:
        return _some(page.all(f"relay_source_{figure}", "source"))

    assert of("retrying_events") == {}
    assert of("dead_letters") == {"shop": 2}
    # Nothing of the others waits, so that they have no oldest event: no figure, and not 0.
    assert page.all("relay_source_oldest_pending_seconds", "source").keys() == {"strict", "paused"}
    assert of("halted") == {"strict": 1}
    assert of("paused") == {"paused": 1}
    assert of("insecure") == {}


def _check_the_rest(page: Page) -> None:
    ahead = page.get("relay_inbox_partitions_ahead_seconds")
    assert ahead is not None
    assert 30 * 86_400 < ahead < 120 * 86_400
    assert page.get("relay_inbox_partitions_overdue") == 0
    assert page.get("relay_database_up") == 1
    assert set(page.all("relay_database_figures_up", "group").values()) == {1}
    assert page.get("relay_database_schema_revision") == BUILD_REVISION
    assert page.get("relay_build_schema_revision") == BUILD_REVISION
    offset = page.get("relay_database_clock_offset_seconds")
    assert offset is not None
    assert abs(offset) < 10  # both clocks are this machine's
    assert page.all("relay_database_dead_rows", "table").keys() >= {"queue", "event_key"}
    assert page.get("relay_build_info", version="0.1.0", python=platform.python_version()) == 1
    assert (page.get("process_open_fds") or 0) > 0
    used, limit = (page.get(f"relay_database_connections_{each}") for each in ("in_use", "limit"))
    assert used is not None
    assert limit is not None
    assert 0 < used <= limit
