"""The fake Stripe API keeps the rules of the real one, as far as they are known."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
import pytest_asyncio

from relay.dev.stripe_api import FakeStripe, Fault, FaultKind, Limits
from relay.dev.stripe_api.kinds import KINDS
from relay.dev.stripe_api.server import LIVE_KEY, OWN_ACCOUNT, TEST_KEY

COUNTS = {"customer": 25, "charge": 60, "subscription": 9, "price": 8, "payment_method": 50}


class Caller:
    """Asks the fake as anybody would."""

    def __init__(self, fake: FakeStripe, client: httpx.AsyncClient) -> None:
        self.fake = fake
        self._client = client

    async def get(
        self, path: str, key: str | None = TEST_KEY, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        login = {} if key is None else {"Authorization": f"Bearer {key}"}
        return await self._client.get(self.fake.url + path, headers=login | dict(headers or {}))

    async def page(self, path: str) -> dict[str, Any]:
        response = await self.get(path)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def ids(self, path: str) -> list[str]:
        return [one["id"] for one in (await self.page(path))["data"]]

    async def error(self, path: str, status: int = 400, **options: Any) -> dict[str, Any]:
        response = await self.get(path, **options)
        assert response.status_code == status, response.text
        assert response.headers["Request-Id"].startswith("req_")
        found: dict[str, Any] = response.json()["error"]
        return found


@pytest_asyncio.fixture
async def caller() -> AsyncIterator[Caller]:
    async with FakeStripe(COUNTS) as fake, httpx.AsyncClient() as client:
        yield Caller(fake, client)


async def test_a_list_is_newest_first_and_ten_long(caller: Caller) -> None:
    page = await caller.page("/v1/charges")
    assert {name: page[name] for name in ("object", "has_more", "url")} == {
        "object": "list",
        "has_more": True,
        "url": "/v1/charges",
    }
    assert [one["id"] for one in page["data"]] == caller.fake.resource("charge").ids()[:10]
    created = [one["created"] for one in page["data"]]
    assert created == sorted(created, reverse=True)
    assert (await caller.page("/v1/coupons"))["data"] == []


async def test_pages_follow_one_another_both_ways(caller: Caller) -> None:
    ids = caller.fake.resource("charge").ids()
    assert await caller.ids(f"/v1/charges?limit=20&starting_after={ids[39]}") == ids[40:]
    assert await caller.ids(f"/v1/charges?limit=20&ending_before={ids[39]}") == ids[19:39]
    last = await caller.page(f"/v1/charges?limit=20&starting_after={ids[39]}")
    assert last["has_more"] is False
    first = await caller.page(f"/v1/charges?limit=39&ending_before={ids[39]}")
    assert first["has_more"] is False
    assert (await caller.page(f"/v1/charges?starting_after={ids[-1]}"))["data"] == []


async def test_the_window_of_created_has_all_its_edges(caller: Caller) -> None:
    fake = caller.fake
    before, inside, after = (fake.create("coupon", 2, created=second) for second in (10, 20, 30))
    for ids in (before, inside, after):
        ids.reverse()
    for window, expected in {
        "created=20": inside,
        "created[gte]=20&created[lte]=20": inside,
        "created[gt]=10&created[lt]=30": inside,
        "created[gte]=20": after + inside,
        "created[gt]=20": after,
        "created[lt]=20": before,
        "created[lte]=20": inside + before,
        "created[gt]=20&created[lt]=20": [],
    }.items():
        assert await caller.ids(f"/v1/coupons?{window}") == expected, window
    # The cursor may lie before the window.
    cursor = after[0]
    assert await caller.ids(f"/v1/coupons?created[lt]=30&starting_after={cursor}") == (
        inside + before
    )


async def test_many_objects_of_one_second_have_an_order(caller: Caller) -> None:
    ids = caller.fake.create("refund", 300, created=1_780_000_000)[::-1]
    found: list[str] = []
    while len(found) < 300:
        after = f"&starting_after={found[-1]}" if found else ""
        found += await caller.ids(f"/v1/refunds?limit=100&created=1780000000{after}")
    assert found == ids


async def test_objects_are_invented_but_exact(caller: Caller) -> None:
    text = (await caller.get("/v1/charges?limit=3")).text
    assert text.count('"decimal": 1.10,') == 3
    assert text.count('"big": 123456789012345678901234567890,') == 3
    assert text.count("\\u00e9\\/\\ud83d\\ude00") == 3
    assert "Zürich" in text
    one = json.loads(text)["data"][0]
    assert one["customer"] in caller.fake.resource("customer").ids()


async def test_the_same_seed_gives_the_same_bytes(caller: Caller) -> None:
    async with FakeStripe(COUNTS) as again, FakeStripe(COUNTS, seed=1) as other:
        for resource in COUNTS:
            one, two, three = (fake.resource(resource) for fake in (caller.fake, again, other))
            assert [one.render(row) for row in one.rows()] == [two.render(r) for r in two.rows()]
            assert not set(one.ids()) & set(three.ids())


async def test_canceled_subscriptions_hide(caller: Caller) -> None:
    everything = await caller.page("/v1/subscriptions?status=all")
    statuses = {one["id"]: one["status"] for one in everything["data"]}
    assert list(statuses) == caller.fake.resource("subscription").ids()
    shown = await caller.ids("/v1/subscriptions")
    assert shown == [one for one, status in statuses.items() if status != "canceled"]
    assert 0 < len(shown) < len(statuses)
    canceled = await caller.ids("/v1/subscriptions?status=canceled")
    assert canceled == [one for one, status in statuses.items() if status == "canceled"]


async def test_inactive_prices_hide(caller: Caller) -> None:
    active = await caller.ids("/v1/prices?active=true")
    inactive = await caller.ids("/v1/prices?active=false")
    assert await caller.ids("/v1/prices") == active
    assert sorted(active + inactive) == sorted(caller.fake.resource("price").ids())
    assert active
    assert inactive
    assert (await caller.error("/v1/prices?active=maybe"))["param"] == "active"


async def test_lists_can_be_those_of_one_customer(caller: Caller) -> None:
    found: list[str] = []
    for customer in caller.fake.resource("customer").ids():
        page = await caller.page(f"/v1/payment_methods?customer={customer}")
        assert {one["customer"] for one in page["data"]} == {customer}
        found += [one["id"] for one in page["data"]]
    assert sorted(found) == sorted(caller.fake.resource("payment_method").ids())
    assert await caller.ids("/v1/payment_methods?customer=cus_nobody") == []


async def test_a_resource_may_insist_on_a_filter() -> None:
    async with (
        FakeStripe(COUNTS, required={"payment_method": "customer"}) as fake,
        httpx.AsyncClient() as client,
    ):
        caller = Caller(fake, client)
        error = await caller.error("/v1/payment_methods")
        assert (error["code"], error["param"]) == ("parameter_missing", "customer")
        customer = fake.resource("customer").ids()[0]
        assert await caller.ids(f"/v1/payment_methods?customer={customer}")


async def test_refunds_are_part_of_charges_when_asked_for(caller: Caller) -> None:
    plain = await caller.page("/v1/charges?limit=1")
    assert "refunds" not in plain["data"][0]
    for parameter in ("expand[]", "expand[0]"):
        page = await caller.page(f"/v1/charges?limit=1&{parameter}=data.refunds")
        assert page["data"][0]["refunds"]["data"][0]["charge"] == page["data"][0]["id"]
    error = await caller.error("/v1/customers?expand[]=data.refunds")
    assert "cannot be expanded (data.refunds)" in error["message"]


@pytest.mark.parametrize(
    ("query", "told", "param"),
    [
        ("limit=0", "greater than or equal to 1", "limit"),
        ("limit=101", "less than or equal to 100", "limit"),
        ("limit=ten", "Invalid integer: ten", "limit"),
        ("page=2", "Received unknown parameter: page", "page"),
        ("status=open", "Received unknown parameter: status", "status"),
        ("a=1&b=2", "Received unknown parameters: a, b", "a"),
        ("created[after]=1", "Received unknown parameter: created", "created"),
        ("created=today", "Invalid integer: today", "created"),
        ("created[gt]=1.5", "Invalid integer: 1.5", "created"),
        ("starting_after=ch_1&ending_before=ch_2", "both starting_after and ending_before", None),
    ],
)
async def test_wrong_parameters_are_named(
    caller: Caller, query: str, told: str, param: str | None
) -> None:
    error = await caller.error(f"/v1/charges?{query}")
    assert told in error["message"]
    assert error.get("param") == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/payment_methods", "/v1/quotes"])
async def test_created_is_unknown_where_the_api_does_not_have_it(caller: Caller, path: str) -> None:
    for query in ("created=1", "created[gte]=1"):
        error = await caller.error(f"{path}?{query}")
        assert error["message"] == "Received unknown parameter: created"


async def test_a_cursor_must_be_in_the_list(caller: Caller) -> None:
    resource = caller.fake.resource("price")
    newest = resource.ids()[0]
    inactive = (await caller.ids("/v1/prices?active=false"))[0]
    resource.delete(newest)
    for query in (
        f"starting_after={newest}",
        "starting_after=price_never",
        f"active=true&starting_after={inactive}",
    ):
        error = await caller.error(f"/v1/prices?{query}")
        assert (error["code"], error["param"]) == ("resource_missing", "starting_after")
        assert error["message"].startswith("No such price: 'price_")
    error = await caller.error(f"/v1/prices?ending_before={newest}")
    assert (error["code"], error["param"]) == ("resource_missing", "ending_before")


async def test_an_object_can_leave_a_filter(caller: Caller) -> None:
    active = await caller.ids("/v1/prices?active=true")
    caller.fake.resource("price").change_state(active[0], 1)
    assert await caller.ids("/v1/prices?active=true") == active[1:]
    await caller.error(f"/v1/prices?active=true&starting_after={active[0]}")
    assert active[0] in await caller.ids("/v1/prices?active=false")


async def test_keys_are_told_apart(caller: Caller) -> None:
    missing = await caller.error("/v1/charges", 401, key=None)
    assert "did not provide an API key" in missing["message"]
    wrong = await caller.error("/v1/charges", 401, key="sk_test_51Nobody4242")
    assert wrong["message"] == "Invalid API Key provided: sk_test_********4242"
    publishable = await caller.error("/v1/charges", 403, key="pk_test_1")
    assert publishable["code"] == "secret_key_required"


async def test_live_data_is_not_test_data(caller: Caller) -> None:
    test = (await caller.get("/v1/customers?limit=100", TEST_KEY)).json()["data"]
    live = (await caller.get("/v1/customers?limit=100", LIVE_KEY)).json()["data"]
    assert {one["livemode"] for one in test} == {False}
    assert {one["livemode"] for one in live} == {True}
    assert not {one["id"] for one in test} & {one["id"] for one in live}


async def test_a_restricted_key_reads_what_it_may() -> None:
    keys = {"rk_test_1abcd": ["customer"]}
    async with FakeStripe({}, keys=keys) as fake, httpx.AsyncClient() as client:
        caller = Caller(fake, client)
        assert (await caller.get("/v1/customers", "rk_test_1abcd")).status_code == 200
        error = await caller.error("/v1/charges", 403, key="rk_test_1abcd")
        assert "Having the 'rak_charge_read' permission" in error["message"]
        assert OWN_ACCOUNT in error["message"]
        assert (await caller.get("/v1/customers", TEST_KEY)).status_code == 401


async def test_only_lists_are_known(caller: Caller) -> None:
    for path in ("/", "/v1/charge", "/v1/mandates", "/v2/core/events", "/v1/charges/"):
        assert "Unrecognized request URL" in (await caller.error(path, 404))["message"]


async def test_headers_are_those_of_stripe(caller: Caller) -> None:
    plain = await caller.get("/v1/charges")
    assert plain.headers["Stripe-Version"] == "2026-08-26.dahlia"
    assert plain.headers["Content-Type"] == "application/json"
    pinned = await caller.get("/v1/charges", headers={"Stripe-Version": "2022-11-15"})
    assert pinned.headers["Stripe-Version"] == "2022-11-15"
    wrong = await caller.error("/v1/charges", headers={"Stripe-Version": "newest"})
    assert wrong["message"] == "Invalid Stripe API version: newest"
    other = await caller.error("/v1/charges", 403, headers={"Stripe-Account": "acct_1"})
    assert other["code"] == "account_invalid"


async def test_the_clock_can_be_given() -> None:
    now = [1_900_000_000.9]
    async with (
        FakeStripe({}, clock=lambda: now[0]) as fake,
        httpx.AsyncClient() as client,
    ):
        caller = Caller(fake, client)
        for moment, date in (
            (1_900_000_000.9, "Sun, 17 Mar 2030 17:46:40 GMT"),
            (1_900_000_001.0, "Sun, 17 Mar 2030 17:46:41 GMT"),
        ):
            now[0] = moment
            assert (await caller.get("/v1/charges")).headers["Date"] == date
        fake.create("charge")
        assert (await caller.page("/v1/charges"))["data"][0]["created"] == 1_900_000_001


@pytest.mark.parametrize(
    ("limits", "reason"),
    [(Limits(account=0), "global-rate"), (Limits(endpoint=0), "endpoint-rate")],
)
async def test_rate_limits_say_which(limits: Limits, reason: str) -> None:
    async with FakeStripe({}, limits=limits) as fake, httpx.AsyncClient() as client:
        answer = await Caller(fake, client).get("/v1/charges")
        assert answer.status_code == 429
        assert answer.headers["Stripe-Rate-Limited-Reason"] == reason
        assert answer.json()["error"]["code"] == "rate_limit"
        assert fake.traffic.statuses == {429: 1}
        assert (fake.traffic.requests(), fake.traffic.peak()) == (1, 1)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("global-rate", 429),
        ("endpoint-concurrency", 429),
        ("resource-specific", 429),
        ("lock_timeout", 429),
        ("conflict", 409),
        ("error", 500),
        ("no_retry", 500),
        ("unavailable", 503),
        ("html", 200),
    ],
)
async def test_answers_fail_on_demand(caller: Caller, kind: FaultKind, status: int) -> None:
    caller.fake.faults.all = [Fault(kind, times=1, resource="charge")]
    assert (await caller.get("/v1/customers")).status_code == 200
    answer = await caller.get("/v1/charges")
    assert answer.status_code == status
    assert answer.headers.get("Stripe-Should-Retry") == ("false" if kind == "no_retry" else None)
    reason = answer.headers.get("Stripe-Rate-Limited-Reason")
    assert reason == (kind if "-" in kind else None)
    if kind in ("unavailable", "html"):
        assert answer.text.startswith("<html>")
    else:
        assert answer.json()["error"]["message"]
    assert (await caller.get("/v1/charges")).json()["has_more"] is True


@pytest.mark.parametrize("kind", ["dropped", "truncated"])
async def test_connections_break_on_demand(caller: Caller, kind: FaultKind) -> None:
    caller.fake.faults.all = [Fault(kind, times=1)]
    with pytest.raises(httpx.RemoteProtocolError):
        await caller.get("/v1/charges")
    assert (await caller.get("/v1/charges")).json()["has_more"] is True


async def test_a_share_of_the_answers_fails(caller: Caller) -> None:
    caller.fake.faults.all = [Fault("error", share=0.5)]
    statuses = [(await caller.get("/v1/charges?limit=1")).status_code for _ in range(100)]
    assert statuses.count(500) == caller.fake.faults.happened["error"]
    assert 20 < statuses.count(500) < 80


async def test_a_page_may_be_empty_although_the_list_goes_on(caller: Caller) -> None:
    caller.fake.faults.all = [Fault("empty_page", times=1)]
    page = await caller.page("/v1/charges")
    assert (page["data"], page["has_more"]) == ([], True)
    assert await caller.ids("/v1/charges")


async def test_data_changes_in_the_middle_of_a_scan(caller: Caller) -> None:
    resource = caller.fake.resource("charge")
    before = resource.ids()
    caller.fake.faults.all = [
        Fault(kind, times=1) for kind in ("delete_cursor", "delete", "create")
    ]
    page = await caller.ids("/v1/charges?limit=5")
    assert page == before[:5]
    assert resource.deleted[0] == page[-1]
    assert len(resource.deleted) == 2
    after = resource.ids()
    assert set(before) - set(after) == set(resource.deleted)
    assert after[0] not in before
    await caller.error(f"/v1/charges?starting_after={page[-1]}")


async def test_another_process_can_steer_it(caller: Caller) -> None:
    fake = caller.fake
    async with httpx.AsyncClient(base_url=fake.url) as client:
        made = await client.post("/_fake/objects/charge", json={"count": 3, "created": 7})
        ids = made.json()["ids"]
        seen = (await client.get("/_fake/objects/charge")).json()
        assert seen["objects"][-3:] == [[one, 7] for one in reversed(ids)]
        gone = await client.request("DELETE", "/_fake/objects/charge", json={"ids": ids[:1]})
        assert gone.json() == {"ids": ids[:1]}
        gone = await client.request("DELETE", "/_fake/objects/charge", json={"count": 2})
        assert len(gone.json()["ids"]) == 2
        seen = (await client.get("/_fake/objects/charge")).json()
        assert seen["deleted"] == fake.resource("charge").deleted
        assert len(seen["objects"]) == len(fake.resource("charge")) == 60

        faults = [{"kind": "error", "times": 1}, {"kind": "conflict", "resource": "price"}]
        assert (await client.put("/_fake/faults", json=faults)).status_code == 200
        assert [(await caller.get("/v1/charges")).status_code for _ in range(2)] == [500, 200]
        assert (await client.put("/_fake/faults", json=[])).status_code == 200
        assert (await client.put("/_fake/limits", json={"endpoint": 0})).status_code == 200
        assert (await caller.get("/v1/prices")).status_code == 429
        traffic = (await client.get("/_fake/traffic")).json()
        assert traffic["requests"] == 3
        assert traffic["statuses"] == {"500": 1, "200": 1, "429": 1}
        assert traffic["faults"] == {"error": 1}
        assert traffic["resources"]["charge"]["requests"] == 2

        for method, path, body in (
            ("PUT", "/_fake/faults", b'[{"kind":"meteor"}]'),
            ("PUT", "/_fake/faults", b"no"),
            ("POST", "/_fake/objects/charges", b"{}"),
            ("DELETE", "/_fake/objects/charge", b'{"ids":["ch_no"]}'),
        ):
            wrong = await client.request(method, path, content=body)
            assert (wrong.status_code, list(wrong.json())) == (400, ["error"])
        assert (await client.get("/_fake/nothing")).status_code == 404


def test_a_number_of_objects_is_spread_over_all_resources() -> None:
    fake = FakeStripe(55)
    lengths = [len(fake.resource(name)) for name in KINDS]
    assert sum(lengths) == 55
    assert set(lengths) == {2, 3}


def test_resources_that_are_not_known_are_named() -> None:
    with pytest.raises(ValueError, match="mandate"):
        FakeStripe({"customer": 1, "mandate": 1})


async def test_accounts_that_are_not_known_have_no_objects() -> None:
    with pytest.raises(KeyError):
        FakeStripe({}).resource("customer", "acct_1")
