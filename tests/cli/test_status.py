"""`relay status`, on a real database."""

from __future__ import annotations

from relay.store.engine import Database
from tests.cli.conftest import Receive, Relay, event, output
from tests.cli.test_events import deliver, park


async def test_an_empty_database(relay: Relay, direct_url: str) -> None:
    # Behind a pooler nobody can tell which services there are.
    found = output(await relay("status", "--json", RELAY_DATABASE_URL=direct_url))
    assert found["sources"] == found["waiting"] == found["batches"] == []
    assert found["partitions_ahead_days"] > 1
    assert "(hidden)" in found["database"]
    assert found["warnings"] == ["no service of relay is connected to this database"]
    assert "no sources" in (await relay("status")).stdout


async def test_the_numbers_by_source(relay: Relay, receive: Receive, database: Database) -> None:
    await relay("source", "create", "acme", "--signing-secret", "whsec_a")
    await relay("source", "create", "beta", "--insecure")
    first, second, third, fourth = await receive(
        "acme", *(event(f"evt_{n}", id=f"cus_{n}") for n in range(4))
    )
    await receive("beta", event("evt_dead"), dead="too_large")
    await park(database, second, attempts=2, code="own_fault")
    await park(database, third, attempts=0, code="kafka_transport")
    await deliver(database, fourth)
    found = output(await relay("status", "--json"))
    numbers = {
        each["source"]: (each["pending"], each["retrying"], each["dead"])
        for each in found["sources"]
    }
    assert numbers == {"acme": (2, 1, 0), "beta": (0, 0, 1)}
    acme, beta = found["sources"]
    assert acme["oldest_pending_seconds"] >= 0
    assert beta["oldest_pending_seconds"] is None
    reasons = {(each["source"], each["code"], each["events"]) for each in found["waiting"]}
    assert reasons == {("acme", "own_fault", 1), ("acme", "kafka_transport", 1)}
    text = await relay("status")
    assert "kafka_transport" in text.stdout
    assert "source beta does not verify signatures" in text.stderr
    assert first not in (second, third)


async def test_services_and_batches_are_seen(
    relay: Relay, receive: Receive, direct_url: str
) -> None:
    await relay("source", "create", "acme", "--insecure")
    (number,) = await receive("acme", event("evt_1"))
    service = Database(direct_url, application_name="relay-forwarder-receiver")
    try:
        async with service.driver() as pg:
            await pg.execute(
                "INSERT INTO relay.batch_note (id, process_id, backend_pid, started_at, source_ids,"
                " lanes, numbers) SELECT gen_random_uuid(), gen_random_uuid(), 1, now(),"
                " ARRAY[source_id], ARRAY[lane], ARRAY[number] FROM relay.queue WHERE number = $1",
                number,
            )
            found = output(await relay("status", "--json", RELAY_DATABASE_URL=direct_url))
            text = (await relay("status", RELAY_DATABASE_URL=direct_url)).stdout
    finally:
        await service.close()
    assert [each["name"] for each in found["services"]] == ["relay-forwarder-receiver"]
    assert found["warnings"] == ["source acme does not verify signatures"]
    (batch,) = found["batches"]
    assert (batch["rows"], batch["lanes"]) == (1, 1)
    assert "relay-forwarder-receiver (1)" in text
    assert "in flight" in text


async def test_no_partition_ahead_is_a_warning(relay: Relay, database: Database) -> None:
    async with database.driver() as pg:
        rows = await pg.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
            " WHERE inhparent = 'relay.inbox'::regclass"
        )
        for row in rows:
            await pg.execute(f"DROP TABLE {row['name']}")
    found = output(await relay("status", "--json"))
    assert found["partitions_ahead_days"] is None
    assert any("no partition of the inbox lies ahead" in each for each in found["warnings"])
    assert "partitions  -" in (await relay("status")).stdout
