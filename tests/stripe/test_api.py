"""One request for one page, against the fake."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

import pytest

from relay.core.errors import ConfigError
from relay.core.listings import API_VERSION, LISTINGS, Listing
from relay.dev.stripe_api import FakeStripe, Fault, FaultKind
from relay.dev.stripe_api.server import LIVE_KEY, TEST_KEY
from relay.stripe import Delayed, Page, Refused, StripeApi
from tests.stripe.raw_server import RawServer
from tests.support.certificates import Authority

EMPTY = b'{"object":"list","data":[],"has_more":false}'
CONNECTED = "acct_1PConnected00"


def page_of(answer: object) -> Page:
    assert isinstance(answer, Page), answer
    return answer


async def test_objects_arrive_exactly_as_they_were_sent() -> None:
    async with FakeStripe({"customer": 30}) as fake, StripeApi(fake.url, fake.key) as api:
        page = page_of(await api.list_page("/v1/customers", (("limit", "20"),)))
        resource = fake.resource("customer")
        rows = resource.rows()[:20]
        # The first one is indented by what comes before it.
        assert [found.raw for found in page.objects] == [
            resource.render(row).strip() for row in rows
        ]
        assert [(found.id, found.created) for found in page.objects] == [
            (row.id, row.created) for row in rows
        ]
        assert page.has_more
        assert page.url == f"{fake.url}/v1/customers?limit=20"
        assert page.request_id is not None
        assert page.request_id.startswith("req_")
        assert page.size > sum(len(found.raw) for found in page.objects)
        assert page.seconds > 0


async def test_a_packed_answer_is_the_same() -> None:
    async with (
        FakeStripe({"charge": 9}) as plain,
        FakeStripe({"charge": 9}, packs=True) as packed,
        StripeApi(plain.url, plain.key) as one,
        StripeApi(packed.url, packed.key) as other,
    ):
        first = page_of(await one.list_page("/v1/charges"))
        second = page_of(await other.list_page("/v1/charges"))
    assert first.objects == second.objects
    assert first.size == second.size


async def test_the_time_is_stripes_and_not_ours() -> None:
    async with (
        FakeStripe({"invoiceitem": 1}, clock=lambda: 1_900_000_000.99) as fake,
        StripeApi(fake.url, fake.key) as api,
    ):
        page = page_of(await api.list_page("/v1/invoiceitems", created_field="date"))
        assert page.date == 1_900_000_000
        assert page.objects[0].created == fake.resource("invoiceitem").rows()[0].created


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.resource)
async def test_every_listing_can_be_asked_as_it_says(listing: Listing) -> None:
    async with FakeStripe({listing.resource: 8}) as fake, StripeApi(fake.url, fake.key) as api:
        found = []
        for one in listing.passes:
            parameters = (*one, *((("created[lt]", str(2**31)),) * listing.has_created_filter))
            page = page_of(
                await api.list_page(listing.path, parameters, created_field=listing.created_field)
            )
            found += page.objects
        assert sorted(o.id for o in found) == sorted(fake.resource(listing.resource).ids())
        assert None not in {o.created for o in found}
        assert {b'"livemode"' in o.raw for o in found} == {listing.has_livemode}
        assert all(f'"object": "{listing.object_type}"'.encode() in o.raw for o in found)


async def test_the_version_is_pinned_and_the_account_is_named() -> None:
    async with RawServer(EMPTY) as server:
        async with StripeApi(server.url, "rk_test_1", account=CONNECTED) as api:
            page_of(await api.list_page("/v1/charges", (("a b", "ü&"),)))
        head = server.heads[0].lower()
    assert head.startswith(b"get /v1/charges?a+b=%c3%bc%26 http/1.1\r\n")
    assert f"stripe-version: {API_VERSION}".encode() in head
    assert f"stripe-account: {CONNECTED}".lower().encode() in head
    assert b"authorization: bearer rk_test_1" in head
    assert b"user-agent: relay/" in head
    assert b"accept-encoding: gzip\r\n" in head


async def test_connected_accounts_have_objects_of_their_own() -> None:
    async with FakeStripe({"customer": 3}, connected=[CONNECTED]) as fake:
        ids = {}
        for account in (None, CONNECTED):
            async with StripeApi(fake.url, fake.key, account=account) as api:
                page = page_of(await api.list_page("/v1/customers"))
                ids[account] = {found.id for found in page.objects}
        assert ids[CONNECTED] == set(fake.resource("customer", CONNECTED).ids())
        assert not ids[None] & ids[CONNECTED]
        async with StripeApi(fake.url, fake.key, account="acct_1PStranger000") as api:
            answer = await api.list_page("/v1/customers")
    assert isinstance(answer, Refused)
    assert (answer.verdict, answer.scope) == ("wrong_account", "snapshot")
    assert "acct_1PStranger000" in answer.message


async def test_the_mode_is_that_of_the_key() -> None:
    async with FakeStripe({"customer": 2}) as fake:
        for key, mode, text in (
            (TEST_KEY, "test", b'"livemode": false'),
            (LIVE_KEY, "live", b'"livemode": true'),
        ):
            async with StripeApi(fake.url, key) as api:
                assert api.mode == mode
                page = page_of(await api.list_page("/v1/customers"))
                assert all(text in found.raw for found in page.objects)


async def test_a_wrong_key_is_told_by_stripe_and_not_shown() -> None:
    key = "sk_test_canary51Revoked"
    async with FakeStripe({}) as fake, StripeApi(fake.url, key) as api:
        answer = await api.list_page("/v1/customers")
        assert isinstance(answer, Refused)
        assert (answer.verdict, answer.scope) == ("wrong_key", "snapshot")
        assert answer.message == "Invalid API Key provided: sk_test_***********oked"
        assert "canary" not in repr(answer) + repr(api) + str(api)


async def test_a_missing_permission_is_named_and_reaches_one_resource() -> None:
    keys = {"rk_test_1canary9876": ["customer"]}
    async with FakeStripe({}, keys=keys) as fake, StripeApi(fake.url, *keys) as api:
        page_of(await api.list_page("/v1/customers"))
        answer = await api.list_page("/v1/charges")
    assert isinstance(answer, Refused)
    assert (answer.verdict, answer.scope) == ("no_access", "resource")
    assert "rak_charge_read" in answer.message
    assert "canary" not in repr(answer)


async def test_a_deleted_cursor_is_gone() -> None:
    async with FakeStripe({"charge": 5}) as fake, StripeApi(fake.url, fake.key) as api:
        newest = fake.resource("charge").ids()[0]
        fake.resource("charge").delete(newest)
        answer = await api.list_page("/v1/charges", (("starting_after", newest),))
    assert isinstance(answer, Refused)
    assert (answer.verdict, answer.scope) == ("cursor_gone", "cursor")
    assert answer.message == f"No such charge: '{newest}'"


@pytest.mark.parametrize(
    ("kind", "verdict", "status"),
    [
        ("endpoint-rate", "rate_limited", 429),
        ("global-concurrency", "rate_limited", 429),
        ("lock_timeout", "locked", 429),
        ("conflict", "conflict", 409),
        ("error", "server_error", 500),
        ("unavailable", "server_error", 503),
        ("html", "unusable", 200),
        ("dropped", "unreachable", None),
        ("truncated", "unreachable", None),
    ],
)
async def test_faults_are_delays_and_the_next_request_succeeds(
    kind: FaultKind, verdict: str, status: int | None
) -> None:
    faults = [Fault(kind, times=1)]
    async with (
        FakeStripe({"charge": 3}, faults=faults) as fake,
        StripeApi(fake.url, fake.key) as api,
    ):
        answer = await api.list_page("/v1/charges")
        assert isinstance(answer, Delayed), answer
        assert (answer.verdict, answer.status) == (verdict, status)
        assert answer.limit_reason == (kind if verdict == "rate_limited" else None)
        assert answer.message
        assert len(page_of(await api.list_page("/v1/charges")).objects) == 3


async def test_a_server_that_is_away_is_a_delay() -> None:
    async with FakeStripe({}) as fake:
        url = fake.url
    async with StripeApi(url, "sk_test_canary1") as api:
        answer = await api.list_page("/v1/charges")
    assert isinstance(answer, Delayed)
    assert answer.verdict == "unreachable"
    assert url in answer.message


async def test_a_server_that_answers_nothing_is_given_up() -> None:
    async with (
        RawServer(None) as server,
        StripeApi(server.url, "sk_test_1", timeout_seconds=0.05) as api,
    ):
        answer = await api.list_page("/v1/charges")
    assert isinstance(answer, Delayed)
    assert answer.verdict == "timeout"


async def test_a_body_that_drips_is_given_up_too() -> None:
    async with (
        RawServer(b" " * 10_000, drip_seconds=0.01) as server,
        StripeApi(server.url, "sk_test_1", timeout_seconds=0.1) as api,
    ):
        answer = await api.list_page("/v1/charges")
    assert isinstance(answer, Delayed)
    assert answer.verdict == "timeout"


async def test_a_request_can_be_cancelled_and_the_pool_goes_on() -> None:
    async with (
        RawServer(None) as server,
        StripeApi(server.url, "sk_test_1", connections=1) as api,
    ):
        for _ in range(2):
            asking = asyncio.create_task(api.list_page("/v1/charges"))
            await server.asked.wait()
            server.asked.clear()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking


async def test_connections_are_kept() -> None:
    async with RawServer(EMPTY) as server:
        async with StripeApi(server.url, "sk_test_1") as api:
            for _ in range(5):
                page_of(await api.list_page("/v1/charges"))
        assert (len(server.heads), server.connections) == (5, 1)


async def test_certificates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    pair = authority.issue("stripe")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.certificate, pair.key)
    async with RawServer(EMPTY, tls=tls) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(stranger.certificate))
        async with StripeApi(server.url, "sk_live_1") as api:
            answer = await api.list_page("/v1/charges")
        assert isinstance(answer, Delayed)
        assert answer.verdict == "unreachable"
        assert "certificate verify failed" in answer.message
        assert server.heads == []
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        async with StripeApi(server.url, "sk_live_1") as api:
            page_of(await api.list_page("/v1/charges"))


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(EMPTY) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with StripeApi("http://stripe.example", "sk_test_1") as api:
            page_of(await api.list_page("/v1/charges"))
        assert server.heads[0].startswith(b"GET http://stripe.example/v1/charges HTTP/1.1")


async def test_a_redirect_is_not_followed_with_the_key() -> None:
    async with (
        RawServer(b"", status=b"302 Found\r\nLocation: http://127.0.0.1:1/") as server,
        StripeApi(server.url, "sk_test_1") as api,
    ):
        answer = await api.list_page("/v1/charges")
    assert isinstance(answer, Delayed)
    assert (answer.verdict, answer.status) == ("unusable", 302)


async def test_a_key_that_an_answer_repeats_is_hidden() -> None:
    body = b'{"error":{"message":"bad sk_test_canary1 and Bearer sk_test_canary1"}}'
    async with (
        RawServer(body, status=b"400 Bad Request") as server,
        StripeApi(server.url, "sk_test_canary1") as api,
    ):
        answer = await api.list_page("/v1/charges")
    assert isinstance(answer, Refused)
    assert "canary" not in repr(answer)


async def test_nothing_that_is_logged_shows_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore"):  # whatever was set up in this process before
        caplog.set_level(logging.DEBUG, logger=name)
    key = "sk_test_canary1"
    async with FakeStripe({}, keys={key: None}) as fake, StripeApi(fake.url, key) as api:
        page_of(await api.list_page("/v1/charges"))
    assert "httpcore" in {record.name.partition(".")[0] for record in caplog.records}
    assert "canary" not in caplog.text


@pytest.mark.parametrize("key", ["pk_test_canary1", "canary1", ""])
def test_keys_that_cannot_read_are_refused(key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        StripeApi("https://api.stripe.com", key)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("url", ["", "api.stripe.com", "ftp://api.stripe.com", "https://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="RELAY_STRIPE_API_BASE"):
        StripeApi(url, "sk_test_1")


async def test_a_live_key_stays_on_the_machine_or_is_encrypted() -> None:
    for url in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://x.example"):
        await StripeApi(url, "rk_live_1").close()
    await StripeApi("http://stripe:1", "rk_test_1").close()
    with pytest.raises(ConfigError, match="never sent unencrypted"):
        StripeApi("http://stripe:1", "rk_live_1")


async def test_a_key_that_is_given_up_delays_the_requests_under_way() -> None:
    async with FakeStripe({"customer": 1}, faults=[Fault("slow", seconds=30.0)]) as fake:
        api = StripeApi(fake.url, fake.key)
        asking = asyncio.create_task(api.list_page("/v1/customers"))
        while not fake.traffic.requests():
            await asyncio.wait({asking}, timeout=0.01)
        await api.close()
        for answer in (await asking, await api.list_page("/v1/customers")):
            assert isinstance(answer, Delayed), answer
            assert answer.verdict == "unreachable"
