"""Lists that no test server makes: ids that two resources share, pages that lead nowhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any

import pytest

from relay.core.scan import Position
from relay.dev.stripe_api.server import TEST_KEY
from relay.snapshotter import Snapshotter
from relay.snapshotter.reading import Request, after_page
from relay.store import inbox, ranges, rates
from relay.store.ranges import Range
from relay.stripe import Answer, ListedObject, Page
from relay.stripe.answer import read_answer
from tests.snapshotter.world import World

pytestmark = pytest.mark.usefixtures("unlimited")

DATE = "Tue, 01 Sep 2026 12:00:00 GMT"
CREATED = 1_780_000_000

Said = tuple[int, dict[str, str], bytes]


def listed(*objects: dict[str, Any], has_more: bool = False) -> Said:
    body = {"object": "list", "data": objects, "has_more": has_more, "url": "/"}
    return 200, {"date": DATE}, json.dumps(body).encode()


def customer(number: int, **members: Any) -> dict[str, Any]:
    return {"id": f"cus_{number}", "object": "customer", "created": CREATED - number} | members


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[str, dict[str, str]], Said]]:
    """The last one is what Stripe answers to a path and a query, the version among it."""
    given: list[Callable[[str, dict[str, str]], Said]] = []

    class Api:
        mode = "test"

        def __init__(self, *_: Any, **__: Any) -> None: ...

        async def list_page(
            self,
            path: str,
            parameters: Sequence[tuple[str, str]],
            *,
            created_field: str,
            api_version: str,
        ) -> Answer:
            status, headers, body = given[-1](
                path, dict(parameters) | {"Stripe-Version": api_version}
            )
            seconds = float(headers.get("took", 0))
            return read_answer(
                status, headers, body, url=path, seconds=seconds, created_field=created_field
            )

        async def close(self) -> None: ...

    monkeypatch.setattr("relay.snapshotter.shared.StripeApi", Api)
    return given


async def add_source(world: World, *resources: str) -> Any:
    fake: Any = SimpleNamespace(url="http://127.0.0.1:9", key=TEST_KEY)
    return await world.add_source(fake, resources=resources)


async def test_objects_of_several_resources_may_share_an_id(
    world: World, answers: list[Any]
) -> None:
    """Every plan is a price with the same id too; ids of products and coupons are people's own."""
    kinds = {"/v1/plans": "plan", "/v1/prices": "price", "/v1/products": "product"}
    asked = dict.fromkeys(kinds, 0)

    def answer(path: str, query: dict[str, str]) -> Said:
        is_older = int(query.get("created[lt]", CREATED + 1)) <= CREATED
        if is_older or query.get("active") == "false":
            return listed()
        asked[path] += 1
        if "starting_after" in query:  # gone: the second is read once more
            error = {"code": "resource_missing", "param": "starting_after"}
            return 400, {}, json.dumps({"error": error}).encode()
        one = {"id": "gold", "object": kinds[path], "created": CREATED}
        return listed(one, has_more=asked[path] == 1)

    answers.append(answer)
    config = await add_source(world, *kinds.values())
    snapshot_id = await world.start(config)
    found = await world.read(snapshot_id)
    assert (found["state"], found["objects"]) == ("finished", 3)
    assert set(asked.values()) == {3}
    async with world.database.driver() as pg:
        rows = await pg.fetch(
            "SELECT event_id, object_type, convert_from(body, 'UTF8')::json ->> 'id' AS told"
            " FROM relay.inbox ORDER BY id"
        )
    assert [row["event_id"] for row in rows] == [row["told"] for row in rows]
    first, *others = [row["event_id"] for row in rows]
    assert first == f"snap_{snapshot_id}_gold"
    assert others == [f"snap_{snapshot_id}_{row['object_type']}:gold" for row in rows[1:]]
    assert {row["object_type"] for row in rows} == set(kinds.values())


async def test_the_same_page_again_and_again_fails_visibly(
    world: World, answers: list[Any]
) -> None:
    """As from a cache that does not look at the query."""
    answers.append(lambda *_: listed(customer(1), customer(2), has_more=True))
    snapshot_id = await world.start(await add_source(world, "customer"))
    found = await world.read(snapshot_id)
    assert found["state"] == "failed"
    assert "the last page once more" in found["last_error"]
    assert found["pages"] <= len(await world.ranges(snapshot_id))


async def test_a_long_outage_does_not_count_as_what_comes_after_it(
    world: World, answers: list[Any]
) -> None:
    failures: list[Said] = [(503, {}, b"")] * 60
    failures += [(200, {"date": DATE}, b"<html>"), listed(has_more=True)]
    answers.append(lambda *_: failures.pop(0) if failures else listed(customer(1)))
    found = await world.read(await world.start(await add_source(world, "customer")))
    assert (found["state"], found["objects"]) == ("finished", 1)


@pytest.mark.parametrize(
    "odd",
    [customer(2, created=10**13), customer(2, id="cus_\0"), customer(2, created=-(10**12))],
    ids=["milliseconds", "NUL", "before Christ"],
)
async def test_an_object_that_cannot_be_one_of_stripes_fails_its_resource_only(
    world: World, answers: list[Any], odd: dict[str, Any]
) -> None:
    answers.append(
        lambda path, _: listed({"id": "ch_1"} if path == "/v1/charges" else odd, has_more=False)
    )
    config = await add_source(world, "customer", "charge")
    snapshot_id = await world.start(config)
    found = await world.read(snapshot_id)
    assert found["state"] == "failed"
    assert "object 0 of the list" in found["last_error"]
    assert (await world.progress(snapshot_id))["charge"]["state"] == "finished"


async def test_an_object_without_a_creation_time_and_one_too_deep(
    world: World, answers: list[Any]
) -> None:
    deep = customer(2) | {"metadata": json.loads("[" * 600 + "]" * 600)}
    answers.append(lambda *_: listed({"id": "cus_ü", "object": "customer"}, deep))
    snapshot_id = await world.start(await add_source(world, "customer"))
    assert (await world.read(snapshot_id))["state"] == "finished"
    async with world.database.driver() as pg:
        rows = await pg.fetch("SELECT object_id, state FROM relay.events ORDER BY id")
    assert [tuple(row) for row in rows] == [("cus_ü", "pending"), (None, "dead")]


@pytest.mark.parametrize(
    ("reason", "endpoint"),
    [
        ("global-rate", rates.ALL_ENDPOINTS),
        ("global-concurrency", rates.ALL_ENDPOINTS),
        ("endpoint-rate", "/v1/customers"),
        ("endpoint-concurrency", "/v1/customers"),
        ("resource-specific", "/v1/customers"),
        (None, "/v1/customers"),
    ],
)
async def test_what_was_asked_too_fast_is_asked_more_slowly(
    world: World, answers: list[Any], reason: str | None, endpoint: str
) -> None:
    headers = {} if reason is None else {"stripe-rate-limited-reason": reason}
    answers.append(lambda *_: (429, headers, b"{}"))
    await world.start(await add_source(world, "customer"))
    await Snapshotter(world.process()).run_once()
    async with world.database.driver() as pg:
        slowed = await pg.fetch("SELECT endpoint FROM relay.api_rate WHERE factor < 1")
    assert [row["endpoint"] for row in slowed] == [endpoint]


async def test_the_second_is_that_of_the_request(world: World, answers: list[Any]) -> None:
    """What changes while Stripe takes its time has a live event that is newer."""
    _, headers, body = listed(customer(1))
    answers.append(lambda *_: (200, headers | {"took": "3.4"}, body))
    await world.read(await world.start(await add_source(world, "customer")))
    [event] = (await world.inbox()).values()
    assert event["created"] == parsedate_to_datetime(DATE).timestamp() - 3


@pytest.mark.parametrize("seconds", ["86400000", "9" * 400])
async def test_a_wait_that_stripe_asks_for_is_bounded(
    world: World, answers: list[Any], seconds: str
) -> None:
    answers.append(lambda *_: (429, {"retry-after": seconds}, b"{}"))
    snapshot_id = await world.start(await add_source(world, "customer"))
    await Snapshotter(world.process()).run_once()
    [row] = await world.ranges(snapshot_id)
    waits = (row["wait_until"] - row["updated_at"]).total_seconds()
    assert waits == pytest.approx(3600, abs=1)


async def test_a_range_that_cannot_be_stored_does_not_hold_up_the_others(
    world: World, answers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = inbox.put

    async def put(pg: Any, events: Any) -> Any:
        if any(event.object_type == "customer" for event in events):
            raise OverflowError("too much")
        return await real(pg, events)

    monkeypatch.setattr(inbox, "put", put)
    answers.append(lambda path, _: listed({"id": "a", "object": path.removeprefix("/v1/")[:-1]}))
    snapshot_id = await world.start(await add_source(world, "charge", "customer"))
    shared = world.process()
    reader = Snapshotter(shared)
    told = 0
    for _ in range(2):
        try:
            await reader.run_once()
        except OverflowError:
            told += 1
    assert told == 1
    rows = await world.progress(snapshot_id)
    assert rows["charge"]["state"] == "finished"
    # How long it waits is drawn by lot; why, stands there until its next turn.
    reasons = {row["resource"]: row["wait_reason"] for row in await world.ranges(snapshot_id)}
    assert reasons["customer"] == "OverflowError: too much"


async def test_the_version_of_its_start_is_asked_for_after_an_upgrade(
    world: World, answers: list[Any]
) -> None:
    asked = []

    def answer(_: str, query: dict[str, str]) -> Said:
        asked.append(query["Stripe-Version"])
        return listed(customer(1))

    answers.append(answer)
    snapshot_id = await world.start(await add_source(world, "customer"))
    async with world.database.driver() as pg:
        await pg.execute("UPDATE relay.snapshot SET api_version = '2025-01-27.acacia'")
    await world.read(snapshot_id)
    assert asked == ["2025-01-27.acacia"]
    [event] = (await world.inbox()).values()
    assert event["api_version"] == "2025-01-27.acacia"


async def test_a_resource_that_leaves_the_schema_is_not_read_on(
    world: World, answers: list[Any]
) -> None:
    answers.append(lambda *_: listed(customer(1)))
    config = await add_source(world, "customer", "charge")
    snapshot_id = await world.start(config, "customer")
    async with world.database.driver() as pg:
        await pg.execute("UPDATE relay.source SET resources = '{charge}'")
    found = await world.read(snapshot_id)
    assert found["state"] == "failed"
    assert "not in the schema" in found["last_error"]
    assert not await world.inbox()


@pytest.mark.parametrize(
    ("at", "until"),
    [
        (Position(), 101),
        (Position(created_until=500), 101),
        (Position(created_until=50), 50),
        (Position(created_until=103, cursor="cus_1", last_created=102), 103),
    ],
)
def test_only_the_first_page_closes_the_window(at: Position, until: int) -> None:
    """Not another one from a server whose clock is a little behind."""
    page = Page((ListedObject("cus_2", 40, b"{}"),), True, 100, None, "", 2, 0.1)
    step, _ = after_page(_range(at), Request("/v1/customers", (), "created", False), page)
    assert step.at.created_until == until


def _range(at: Position) -> Range:
    return Range(
        id=1,
        snapshot_id="abc",
        source_id=1,
        resource="customer",
        pass_=0,
        at=at,
        api_version="",
        livemode=False,
        created_after=None,
        created_before=None,
        failures=0,
        parents=None,
        parents_done=False,
        child_cursor=None,
        last_error=None,
        readers=1,
    )


async def test_a_wait_from_a_clock_that_was_set_back_is_over(
    world: World, answers: list[Any]
) -> None:
    answers.append(lambda *_: listed(customer(1)))
    await world.start(await add_source(world, "customer"))
    async with world.database.driver() as pg:
        for updated, claimable in (("-1 second", False), ("1 hour", True)):
            await pg.execute(
                "UPDATE relay.snapshot_range SET updated_at = now() + $1::text::interval,"
                " wait_until = now() + $1::text::interval + interval '30 seconds'",
                updated,
            )
            assert (await ranges.take_up(pg, 1.0) is not None) is claimable
