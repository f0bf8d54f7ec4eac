"""Stripe's own package, which knows how Stripe pages, reads the fake as it reads Stripe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import stripe

from relay.core.listings import LISTINGS, Listing
from relay.dev.stripe_api import FakeStripe, Fault
from relay.dev.stripe_api.kinds import KINDS


def service_of(client: stripe.StripeClient, listing: Listing) -> Any:
    """`client.v1.checkout.sessions` of `/v1/checkout/sessions`."""
    service: Any = client.v1
    for part in listing.path.removeprefix("/v1/").split("/"):
        service = getattr(service, {"invoiceitems": "invoice_items"}.get(part, part))
    return service


async def read_all(fake: FakeStripe, read: Callable[[stripe.StripeClient], Any]) -> Any:
    """The package blocks; its connections end with its client."""
    http = stripe.RequestsClient()
    client = stripe.StripeClient(
        fake.key, base_addresses={"api": fake.url}, http_client=http, max_network_retries=5
    )
    try:
        return await asyncio.to_thread(read, client)
    finally:
        http.close()


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.resource)
async def test_auto_paging_sees_every_object_once(listing: Listing) -> None:
    async with FakeStripe({listing.resource: 45}) as fake:
        found: list[str] = []
        for one in listing.passes:
            parameters = {"limit": 7, **dict(one)}

            def read(client: stripe.StripeClient, asked: dict[str, Any] = parameters) -> list[str]:
                page = service_of(client, listing).list(asked)
                return [each.id for each in page.auto_paging_iter()]

            found += await read_all(fake, read)
        expected = fake.resource(listing.resource).ids()
        assert sorted(found) == sorted(expected)
        if len(listing.passes) == 1:
            assert found == expected


async def test_windows_and_expansions_are_understood() -> None:
    async with FakeStripe({"charge": 40}) as fake:
        rows = fake.resource("charge").rows()
        low, high = rows[30].created, rows[10].created

        def read(client: stripe.StripeClient) -> list[tuple[str, int]]:
            window = {"gte": low, "lt": high}
            page = client.v1.charges.list(
                {"limit": 3, "created": window, "expand": ["data.refunds"]}
            )
            return [(one.id, len(one.refunds.data)) for one in page.auto_paging_iter()]

        expected = [(row.id, 2) for row in rows if low <= row.created < high]
        assert await read_all(fake, read) == expected


async def test_its_errors_are_recognised() -> None:
    keys = {"sk_test_51Known": None, "rk_test_1abcd": ["customer"]}
    async with FakeStripe({"customer": 2}, keys=keys) as fake:
        for key, path, expected in (
            ("sk_test_51Revoked", "customers", stripe.AuthenticationError),
            ("rk_test_1abcd", "charges", stripe.PermissionError),
        ):
            fake.key = key
            with pytest.raises(expected) as refused:
                await read_all(fake, lambda client, path=path: getattr(client.v1, path).list())
            assert refused.value.request_id.startswith("req_")
        fake.key = "sk_test_51Known"
        with pytest.raises(stripe.InvalidRequestError) as gone:
            await read_all(
                fake, lambda client: client.v1.customers.list({"starting_after": "cus_never"})
            )
        assert (gone.value.code, gone.value.param) == ("resource_missing", "starting_after")


async def test_it_retries_what_it_may() -> None:
    async with FakeStripe({"customer": 2}, faults=[Fault("conflict", times=1)]) as fake:
        found = await read_all(fake, lambda client: client.v1.customers.list().data)
        assert len(found) == 2
        assert fake.traffic.requests() == 2
        fake.faults.all = [Fault("no_retry")]
        with pytest.raises(stripe.APIError):
            await read_all(fake, lambda client: client.v1.customers.list())
        assert fake.traffic.requests() == 3


def test_every_resource_of_the_fake_is_read() -> None:
    assert [listing.resource for listing in LISTINGS] == list(KINDS)
