"""Our way through the pages of a list, on a fake of Stripe that others made.

localstripe runs as a process of its own; it keeps objects in the order of their creation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import httpx
import pytest

from relay.core.listings import LISTINGS, Listing, listing_of
from relay.stripe import ListedObject, Page, StripeApi
from tests.support.processes import hold

KEY = "sk_test_12345"
COUNT = 23

SERVER = """
import socket

from aiohttp import web
from localstripe import resources, server

type(resources.store).dump_to_disk = lambda store: None  # it would write to a fixed place
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
web.run_app(server.app, sock=listener, access_log=None, print=None)
"""

FORMS: Mapping[str, Mapping[str, str]] = {
    "customer": {"email": "anna@example.ch"},
    "product": {"name": "Jacke", "type": "service"},
    "coupon": {"id": "{}_OFF", "percent_off": "25", "duration": "once"},
    "plan": {
        "amount": "100",
        "currency": "eur",
        "interval": "month",
        "product[name]": "Abo",
    },
    "tax_rate": {"display_name": "VAT", "inclusive": "true", "percentage": "7.7"},
    "payment_intent": {"amount": "100", "currency": "eur"},
    "setup_intent": {},
    "payout": {"amount": "100", "currency": "eur"},
}
"""How an object is made, for the resources that localstripe can also list."""


@pytest.fixture(scope="module")
def localstripe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process, port = hold(SERVER, tmp_path_factory.mktemp("localstripe"))
    url = f"http://127.0.0.1:{port}"
    yield url
    process.kill()
    process.wait()


def listing(resource: str) -> Listing:
    found = listing_of(resource, "event_type")
    assert found is not None
    return found


async def read_all(api: StripeApi, path: str, limit: int) -> list[ListedObject]:
    found: list[ListedObject] = []
    while True:
        after = (("starting_after", found[-1].id),) if found else ()
        page = await api.list_page(path, (("limit", str(limit)), *after))
        assert isinstance(page, Page), page
        assert len(page.objects) <= limit
        found += page.objects
        if not page.has_more:
            return found


@pytest.mark.parametrize("resource", FORMS)
async def test_every_object_is_seen_once(localstripe: str, resource: str) -> None:
    path = listing(resource).path
    ids = []
    async with httpx.AsyncClient(base_url=localstripe, auth=(KEY, "")) as client:
        await client.delete("/_config/data")
        for number in range(COUNT):
            form = {name: text.format(number) for name, text in FORMS[resource].items()}
            made = await client.post(path, data=form)
            assert made.status_code == 200, made.text
            ids.append(made.json()["id"])
    async with StripeApi(localstripe, KEY) as api:
        for limit in (1, 7, COUNT, 100):
            found = await read_all(api, path, limit)
            assert sorted(one.id for one in found) == sorted(ids)
            assert all(one.raw.startswith(b"{") and one.raw.endswith(b"}") for one in found)


def test_the_forms_are_of_resources_that_we_list() -> None:
    assert set(FORMS) <= {one.resource for one in LISTINGS}
