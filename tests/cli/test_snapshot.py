"""`relay snapshot` and `source create --snapshot`, beside a fake of the Stripe API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from relay.cli import snapshot as commands
from relay.core.source import SourceConfig
from relay.dev.stripe_api import FakeStripe
from relay.dev.stripe_api.server import LIVE_KEY, TEST_KEY
from relay.settings import Settings
from relay.snapshotter import Shared, Snapshotter
from relay.snapshotter.objects import event_of
from relay.store import inbox, ranges
from relay.store.engine import Database
from relay.store.sealing import Seal
from relay.stripe import ListedObject
from tests.cli.conftest import KEY, Relay, output

MINE = ("--insecure", "--schema", "customer,charge")


@pytest_asyncio.fixture
async def stripe() -> AsyncIterator[FakeStripe]:
    async with FakeStripe({"customer": 250, "charge": 30}) as fake:
        yield fake


@pytest.fixture
def api(stripe: FakeStripe) -> dict[str, str]:
    """The setting that has the commands ask the fake."""
    return {"RELAY_STRIPE_API_BASE": stripe.url}


@pytest_asyncio.fixture
async def shop(relay: Relay, api: dict[str, str]) -> None:
    await relay("source", "create", "shop", *MINE, "--stripe-api-key", TEST_KEY, **api)


async def read(database: Database, stripe: FakeStripe) -> None:
    """What a process with the role snapshotter does, until nothing is left."""
    settings = Settings(stripe_api_base=stripe.url, stripe_rate_share=1.0)
    shared = Shared(database, Seal([KEY]), settings)
    while await Snapshotter(shared).run_once():
        pass
    await shared.close()


@pytest.mark.usefixtures("shop")
async def test_start_show_list(
    relay: Relay, database: Database, stripe: FakeStripe, api: dict[str, str]
) -> None:
    started = output(await relay("snapshot", "start", "shop", "--json", **api))
    assert started == {"id": started["id"], "source": "shop", "resources": ["charge", "customer"]}
    shown = output(await relay("snapshot", "show", started["id"], "--json"))
    assert (shown["state"], shown["objects"]) == ("running", 0)
    await read(database, stripe)
    shown = output(await relay("snapshot", "show", started["id"], "--json"))
    assert (shown["state"], shown["objects"], shown["livemode"]) == ("finished", 280, False)
    assert {row["resource"]: row["objects"] for row in shown["progress"]} == {
        "charge": 30,
        "customer": 250,
    }
    [listed] = output(await relay("snapshot", "list", "--source", "shop", "--json"))
    assert listed["id"] == started["id"]
    text = (await relay("snapshot", "show", started["id"])).stdout
    assert "100 %" in text
    assert started["id"] in (await relay("snapshot", "list")).stdout


@pytest.mark.usefixtures("shop")
async def test_watching_to_the_end(
    relay: Relay, database: Database, stripe: FakeStripe, api: dict[str, str]
) -> None:
    watching = asyncio.create_task(relay("snapshot", "start", "shop", "--watch", **api))
    while not watching.done():
        await read(database, stripe)
        await asyncio.wait({watching}, timeout=0.05)
    text = (await watching).stdout
    assert "customer: finished, 250 objects" in text


async def test_who_stops_watching_is_told_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def watch(*_: Any, **__: Any) -> Any:
        watched.set()
        await asyncio.Event().wait()

    watched = asyncio.Event()
    monkeypatch.setattr(commands, "watch", watch)
    call: Any = SimpleNamespace(json=False, settings=Settings())
    database: Any = None
    watching = asyncio.create_task(commands._watch_to_the_end(call, database, "abc"))
    await watched.wait()
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    assert "snapshot abc goes on by itself" in capsys.readouterr().err


@pytest.mark.usefixtures("shop")
async def test_a_window(
    relay: Relay, database: Database, stripe: FakeStripe, api: dict[str, str]
) -> None:
    rows = sorted(stripe.resource("customer").rows(), key=lambda row: row.order)
    started = output(
        await relay(
            *("snapshot", "start", "shop", "customer", "--json"),
            *("--created-after", str(rows[200].created)),
            **api,
        )
    )
    await read(database, stripe)
    shown = output(await relay("snapshot", "show", started["id"], "--json"))
    assert shown["objects"] == len([row for row in rows if row.created >= rows[200].created])


@pytest.mark.usefixtures("shop")
async def test_pause_resume_cancel(relay: Relay, database: Database, api: dict[str, str]) -> None:
    snapshot = output(await relay("snapshot", "start", "shop", "--json", **api))["id"]
    for action, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert output(await relay("snapshot", action, snapshot, "--json"))["state"] == state
    again = await relay("snapshot", "resume", snapshot, exits=1)
    assert "cancelled: nothing to resume" in again.stderr
    async with database.driver() as pg:
        rows = await pg.fetch("SELECT action, target FROM relay.operator_log ORDER BY id")
    assert [(row["action"], row["target"]) for row in rows if row["target"] == snapshot] == [
        (f"snapshot.{each}", snapshot) for each in ("start", "pause", "resume", "cancel")
    ]


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("arguments", "exits", "words"),
    [
        (("shop", "custmer"), 2, "did you mean customer"),
        (("shop", "invoice"), 2, "not in the schema"),
        (("shop", "mandate"), 2, "no list of mandates"),
        (("shop", "--created-after", "yesterday"), 2, "is no time"),
        (("shop", "--created-after", "1780000000", "--created-before", "1780000000"), 2, "before"),
        (("shop", "customer", "--per-customer"), 2, "customer by customer"),
        (("shoe",), 2, "shoe"),
    ],
)
async def test_what_cannot_be_started(
    relay: Relay, api: dict[str, str], arguments: tuple[str, ...], exits: int, words: str
) -> None:
    refused = await relay("snapshot", "start", *arguments, exits=exits, **api)
    assert words in refused.stderr


async def test_a_wrong_key_is_told_at_once(
    relay: Relay, database: Database, api: dict[str, str]
) -> None:
    await relay("source", "create", "shop", *MINE, "--stripe-api-key", "sk_test_wrong", **api)
    refused = await relay("snapshot", "start", "shop", exits=1, **api)
    assert "Invalid API Key" in refused.stderr
    assert "sk_test_wrong" not in refused.stderr
    async with database.driver() as pg:
        assert not await pg.fetchval("SELECT count(*) FROM relay.snapshot")


async def test_what_the_key_may_not_read_is_told_at_once_and_at_the_end(
    relay: Relay, database: Database
) -> None:
    counts = {"customer": 30, "charge": 30}
    async with FakeStripe(counts, keys={TEST_KEY: ["customer"]}) as stripe:
        api = {"RELAY_STRIPE_API_BASE": stripe.url}
        await relay("source", "create", "shop", *MINE, "--stripe-api-key", TEST_KEY, **api)
        started = await relay("snapshot", "start", "shop", "--json", **api)
        assert "charge: The provided key" in started.stderr
        assert "customer" not in started.stderr
        await read(database, stripe)
        snapshot = output(started)["id"]
        failed = await relay("snapshot", "show", snapshot, "--watch", exits=1)
        assert "customer: finished, 30 objects" in failed.stdout
        assert "rak_charge_read" in failed.stderr
        assert f"relay snapshot resume {snapshot}" in failed.stderr


async def test_what_is_listed_per_customer_only_needs_no_warning(relay: Relay) -> None:
    required = {"payment_method": "customer"}
    async with FakeStripe({"payment_method": 5, "customer": 5}, required=required) as stripe:
        flags = ("--insecure", "--schema", "payment_method", "--stripe-api-key", TEST_KEY)
        api = {"RELAY_STRIPE_API_BASE": stripe.url}
        await relay("source", "create", "shop", *flags, **api)
        plain = await relay("snapshot", "start", "shop", **api)
        assert "payment_method: Missing required param: customer." in plain.stderr
        assert "--per-customer" in plain.stderr
        started = await relay("snapshot", "start", "shop", "--per-customer", **api)
        assert "customer" not in started.stderr


async def test_a_source_without_a_key(relay: Relay) -> None:
    await relay("source", "create", "shop", *MINE)
    refused = await relay("snapshot", "start", "shop", exits=2)
    assert "relay source update shop --stripe-api-key" in refused.stderr


async def test_a_key_of_the_other_mode(relay: Relay, api: dict[str, str]) -> None:
    flags = (*MINE, "--mode", "test", "--stripe-api-key", LIVE_KEY)
    await relay("source", "create", "shop", *flags, **api)
    refused = await relay("snapshot", "start", "shop", exits=2, **api)
    assert "mode" in refused.stderr


async def test_a_source_with_its_initial_load(
    relay: Relay, database: Database, stripe: FakeStripe, api: dict[str, str]
) -> None:
    flags = (*MINE, "--stripe-api-key", TEST_KEY, "--snapshot", "--json")
    made: dict[str, Any] = output(await relay("source", "create", "shop", *flags, **api))
    await read(database, stripe)
    shown = output(await relay("snapshot", "show", made["snapshot"], "--json"))
    assert (shown["state"], shown["objects"]) == ("finished", 280)


async def test_an_initial_load_that_cannot_start_makes_no_source(
    relay: Relay, api: dict[str, str]
) -> None:
    flags = (*MINE, "--stripe-api-key", "sk_test_wrong", "--snapshot")
    await relay("source", "create", "shop", *flags, exits=1, **api)
    assert output(await relay("source", "list", "--json")) == []


@pytest.mark.usefixtures("shop")
async def test_a_deleted_source_has_its_snapshots_cancelled(
    relay: Relay, api: dict[str, str]
) -> None:
    snapshot = output(await relay("snapshot", "start", "shop", "--json", **api))["id"]
    await relay("source", "delete", "shop")
    assert output(await relay("snapshot", "show", snapshot, "--json"))["state"] == "cancelled"


@pytest.mark.usefixtures("shop")
async def test_a_page_in_hand_leaves_nothing_behind_in_a_deleted_source(
    relay: Relay, database: Database, api: dict[str, str]
) -> None:
    await relay("snapshot", "start", "shop", "customer", **api)
    async with database.driver() as pg:
        range_id = await pg.fetchval("SELECT id FROM relay.snapshot_range")
        await pg.execute(ranges.BEGIN.format(idle_ms=30_000))
        claimed = await ranges.claim(pg, range_id)
        assert claimed is not None
        deleting = asyncio.create_task(relay("source", "delete", "shop", "--discard-pending"))
        while not await pg.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.wait({deleting}, timeout=0.05)
        config = SourceConfig(source_id=claimed.source_id, public_id="", name="shop")
        listed = ListedObject("cus_1", 1, b'{"id":"cus_1","object":"customer"}')
        assert await inbox.put(pg, [event_of(claimed, listed, 1, config)]) == [True]
        await pg.execute("COMMIT")
        await deleting
        states = await pg.fetch("SELECT state, skip_reason FROM relay.events")
        assert [tuple(row) for row in states] == [("skipped", "discarded")]
