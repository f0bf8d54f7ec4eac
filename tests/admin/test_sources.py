"""Sources on the pages and by the API: looking, making, changing, and what nobody may see."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import pytest
import pytest_asyncio

from relay.core.source import SourceConfig
from relay.store import sources
from relay.store.engine import Database
from relay.store.sealing import Seal, new_key
from tests.admin.reader import Page
from tests.admin.test_hostile import HOSTILE, INVISIBLE
from tests.admin.world import LOCKED, OPERATOR, VIEWER, Served, csrf_token, served
from tests.store.rows import bury, fail, new_event, store

KEY = new_key()
WHY = {"reason": "a new shop"}
# As a browser fills the form of a new source in.
FILLED: dict[str, Any] = {
    "name": "shop",
    "signing_secrets": "whsec_canary1",
    "stripe_api_key": "rk_test_canary2",
    "every": "no",
    "resource": ["customer", "invoice"],
    "others": "radar, treasury",
    "unselected": "SKIP",
    "default_topic": "rest",
    "topic_prefix": "stripe.",
    "route_by": "event_type",
    "fan_out": ["invoice.lines"],
    "tombstones": "yes",
    "dlq": "yes",
    "dlq_topic": "graveyard",
    "mode": "test",
    "tolerance": "60",
    "reason": "a new shop",
}
MADE = {
    "name": "shop",
    "state": "forwarding",
    "signing_secrets": 1,
    "stripe_api_key": True,
    "schema": ["customer", "invoice", "radar", "treasury"],
    "unselected": "SKIP",
    "default_topic": "rest",
    "metadata": False,
    "fan_out": ["invoice.lines"],
    "dlq": True,
    "dlq_topic": "graveyard",
    "topic_prefix": "stripe.",
    "route_by": "event_type",
    "tombstones": True,
    "tolerance": 60,
    "mode": "test",
    "insecure": False,
}


@pytest_asyncio.fixture
async def desk(database_url: str) -> AsyncIterator[Served]:
    settings: dict[str, Any] = LOCKED | {
        "encryption_keys": (KEY,),
        "public_url": "https://relay.example.com",
    }
    async with served(database_url, **settings) as made:
        yield made


async def add(database: Database, name: str = "shop", *secrets: str, **changes: Any) -> str:
    """A source; its id."""
    seal = Seal([KEY])
    config = SourceConfig(
        source_id=0, public_id="", name=name, **({"insecure": not secrets} | changes)
    )
    async with database.begin() as connection:
        made, _ = await sources.create(
            connection,
            config,
            sealed_secrets=[seal.seal(each.encode()) for each in secrets],
            sealed_stripe_key=None,
        )
    return made.config.public_id


async def stored(database: Database, name: str = "shop") -> tuple[sources.Source, tuple[str, ...]]:
    async with database.begin() as connection:
        found = await sources.find(connection, name)
    return found, sources.open_secrets(found.sealed_secrets, Seal([KEY]))


async def page_of(desk: Served, path: str, token: str = OPERATOR, status: int = 200) -> Page:
    return page_in(await desk.client(token).get(path), status)


def page_in(answer: httpx.Response, status: int = 200) -> Page:
    assert answer.status_code == status, answer.text
    page = Page(answer.text)
    assert page.faults == []
    assert not set(INVISIBLE) & set(answer.text)
    assert "canary" not in answer.text
    return page


async def send(desk: Served, page: str, action: str, form: dict[str, Any]) -> httpx.Response:
    """Send a form of a page as a browser does."""
    browser = await desk.browser()
    return await browser.post(action, data=form | {"csrf_token": await csrf_token(browser, page)})


async def press(desk: Served, source: str, action: str, **fields: Any) -> Page:
    """One action of a source's page; the page that it leads to."""
    answer = await send(desk, f"/sources/{source}", f"/sources/{source}/{action}", WHY | fields)
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"] == f"/sources/{source}?did={action}"
    return await page_of(desk, answer.headers["location"])


def typed(page: Page) -> dict[str, Any]:
    """What a browser would send of the form of settings, as it stands on a page."""
    found: dict[str, Any] = {"resource": [], "fan_out": []}
    field = ""
    for tag, attributes, parents in page.elements:
        name, kind = attributes.get("name", ""), attributes.get("type")
        if tag == "select":
            field = name
        if tag == "option" and "selected" in attributes:
            found[field] = attributes["value"]
        if "form" not in parents or tag != "input" or name == "q":
            continue
        if kind not in ("checkbox", "radio"):
            found[name] = attributes.get("value", "")
        elif "checked" in attributes and name in ("resource", "fan_out"):
            found[name].append(attributes["value"])
        elif "checked" in attributes:
            found[name] = attributes["value"]
    return found


async def log(pg: asyncpg.Connection) -> list[tuple[str, str, str | None]]:
    rows = await pg.fetch("SELECT who, action, reason FROM relay.operator_log ORDER BY id")
    return [tuple(row) for row in rows]


async def details(pg: asyncpg.Connection) -> Any:
    return await pg.fetchval("SELECT details FROM relay.operator_log ORDER BY id DESC LIMIT 1")


# --- making one -------------------------------------------------------------------------------


async def test_a_person_makes_one_and_sees_its_url_once(
    desk: Served, database: Database, pg: asyncpg.Connection
) -> None:
    assert "There is none yet" in (await page_of(desk, "/sources")).text
    form = typed(await page_of(desk, "/sources/new"))
    assert form["resource"] == ["customer", "payment_intent", "charge", "invoice"]
    assert (form["metadata"], form["dlq"], form["tolerance"]) == ("yes", "yes", "300")
    browser = await desk.browser()
    sent = FILLED | {"csrf_token": await csrf_token(browser, "/sources/new")}
    answer = await browser.post("/sources", data=sent)
    shown = page_in(answer)
    assert answer.headers["cache-control"] == "no-store"
    found, secrets = await stored(database)
    url = f"https://relay.example.com/webhooks/{found.config.public_id}?api_key="
    key = shown.text.partition(url)[2].partition(" ")[0]
    digest = await pg.fetchval("SELECT sha256 FROM relay.api_key")
    assert digest == hashlib.sha256(key.encode()).digest()
    assert secrets == ("whsec_canary1",)
    assert found.sealed_stripe_key is not None
    assert Seal([KEY]).open(found.sealed_stripe_key) == b"rk_test_canary2"
    told = (await desk.client(VIEWER).get("/api/sources/shop")).json()
    assert told.items() >= MADE.items()
    assert told["webhook_url"] == url.removesuffix("?api_key=")
    # Loaded again, the page makes no other one and does not show the key.
    again = page_in(await browser.post("/sources", data=sent), 400)
    assert "a source named 'shop' exists already" in again.text
    assert key not in again.text
    assert await pg.fetchval("SELECT count(*) FROM relay.api_key") == 1
    assert await log(pg) == [("dashboard", "source.create", "a new shop")]


@pytest.mark.parametrize(
    ("changes", "field", "told"),
    [
        ({"name": ""}, "name", "“Name”: '' is no name for a source"),
        ({"name": "src_x"}, "name", "looks like the id of a source"),
        ({"signing_secrets": ""}, "signing_secrets", "“Signing secret” is missing"),
        ({"signing_secrets": "sk_live_canary"}, "signing_secrets", "that is an API key"),
        ({"signing_secrets": "whsec_canäry"}, "signing_secrets", "a character that no secret has"),
        ({"signing_secrets": "whsec_awhsec_canary"}, "signing_secrets", "run into each other"),
        ({"stripe_api_key": "pk_live_canary"}, "stripe_api_key", "a publishable key"),
        ({"stripe_api_key": "canary"}, "stripe_api_key", "must be a key of Stripe"),
        ({"insecure": "yes"}, "insecure", "is for a source without a signing secret"),
        ({"resource": [], "others": ""}, "schema", "is empty"),
        ({"others": "--Schema"}, "schema", "'--Schema' is no resource"),
        ({"others": "customer"}, "schema", "more than once"),
        ({"others": "*"}, "schema", "'*' alone is every resource"),
        ({"unselected": "DROP"}, "unselected", "'DROP' is not one of"),
        ({"default_topic": ""}, "default_topic", "“Default topic”: is blank"),
        ({"default_topic": "a b"}, "default_topic", "Kafka refuses the topic name"),
        ({"topic_prefix": "é"}, "topic_prefix", "cannot start a topic name"),
        ({"fan_out": ["invoice.line"]}, "fan_out", "did you mean 'invoice.lines'?"),
        ({"dlq_topic": "customer"}, "dlq_topic", "is also a topic of records"),
        ({"route_by": "topic"}, "route_by", "is not one of"),
        ({"mode": "both"}, "mode", "is not one of"),
        ({"tolerance": "soon"}, "tolerance", "'soon' is no whole number of seconds"),
        ({"tolerance": "0"}, "tolerance", "is not between 1 and"),
        ({"tolerance": "9" * 400}, "tolerance", "is no whole number"),
        ({"reason": " "}, "reason", "“Reason”: say why"),
    ],
)
async def test_what_is_wrong_is_told_beside_what_was_typed(
    desk: Served, pg: asyncpg.Connection, changes: dict[str, Any], field: str, told: str
) -> None:
    answer = await send(desk, "/sources/new", "/sources", FILLED | changes)
    page = page_in(answer, 400)
    assert told in page.text
    assert "--" not in page.text.replace("--Schema", "").replace("--print-secret", "")
    (wrong,) = [a for _, a, _ in page.elements if "aria-invalid" in a]
    assert (wrong["id"], wrong["aria-describedby"]) == (field, "wrong")
    assert f"#{field}" in [a.get("href") for a in page.tags("a")]
    kept = typed(page)
    expected = FILLED | changes | {"signing_secrets": "", "stripe_api_key": ""}
    for name in ("fan_out", "unselected", "route_by", "mode"):
        # What is not on offer cannot be ticked or chosen again.
        if name in changes:
            kept.pop(name, None)
            expected.pop(name)
    expected["reason"] = expected["reason"].strip()
    assert kept.items() >= expected.items()
    assert await pg.fetchval("SELECT count(*) FROM relay.source") == 0
    assert await log(pg) == []


async def test_without_an_encryption_key_it_is_said_what_is_missing(dashboard: Served) -> None:
    answer = await send(dashboard, "/sources/new", "/sources", FILLED)
    assert "RELAY_ENCRYPTION_KEYS is not set" in page_in(answer, 400).text


async def test_every_resource_is_one_choice(desk: Served, database: Database) -> None:
    form = FILLED | {"every": "yes", "dlq_topic": "", "metadata": "yes"}
    page_in(await send(desk, "/sources/new", "/sources", form))
    found, _ = await stored(database)
    assert found.config.resources == ("*",)
    assert found.config.metadata
    page = await page_of(desk, f"/sources/{found.config.public_id}")
    assert "every resource, each in its own topic" in page.text
    edit = typed(await page_of(desk, f"/sources/{found.config.public_id}/edit"))
    assert (edit["every"], edit["resource"], edit["others"]) == ("yes", [], "")


async def test_a_program_makes_one(desk: Served, pg: asyncpg.Connection) -> None:
    client = desk.client(OPERATOR, **{"x-relay-operator": "terraform"})
    wanted = {
        name: value
        for name, value in MADE.items()
        if name not in ("state", "signing_secrets", "stripe_api_key")
    }
    secrets = {"signing_secrets": ["whsec_a", " whsec_b"], "stripe_api_key": "sk_test_1"}
    answer = await client.post("/api/sources", json=wanted | secrets | WHY)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made.keys() == {"id", "name", "webhook_url", "api_key", "old_keys_end_in_seconds"}
    assert made["webhook_url"].endswith(f"/webhooks/{made['id']}?api_key={made['api_key']}")
    found = (await client.get(f"/api/sources/{made['id']}")).json()
    assert found.items() >= (MADE | {"signing_secrets": 2}).items()
    assert (await client.get("/api/sources")).json() == {"sources": [found]}
    least = await client.post("/api/sources", json=WHY | {"name": "least", "insecure": True})
    assert least.status_code == 201
    default = (await client.get("/api/sources/least")).json()
    assert default["schema"] == ["customer", "payment_intent", "charge", "invoice"]
    assert [each["code"] for each in default["warnings"]] == ["unverified"]
    assert await log(pg) == [("terraform (API)", "source.create", "a new shop")] * 2


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({}, "signing_secrets is missing"),
        ({"insecure": True, "name": "shop"}, "a source named 'shop' exists already"),
        ({"insecure": True, "name": "--mode"}, None),
        ({"insecure": True, "name": "\x00"}, "name: '\\x00' is no name"),
        ({"insecure": True, "reason": ""}, "reason"),
        ({"insecure": True, "reason": 1}, "reason"),
        ({"insecure": "yes"}, "insecure"),
        ({"insecure": True, "mode": "both"}, "mode"),
        ({"insecure": True, "tolerance": 0}, "tolerance: 0 is not between"),
        ({"insecure": True, "tolerance": 10**30}, "tolerance"),
        ({"insecure": True, "schema": ["Customer"]}, "schema: 'Customer' is no resource"),
        ({"insecure": True, "schema": "customer"}, "schema"),
        ({"insecure": True, "topicprefix": "x"}, "topicprefix"),
        ({"insecure": True, "stripe_api_key": " "}, "stripe_api_key is blank"),
        ({"signing_secrets": [" "]}, "signing_secrets is blank"),
        ({"signing_secrets": ["whsec_a"], "insecure": True}, "insecure is for a source without"),
    ],
)
async def test_a_program_is_told_the_field(
    desk: Served, database: Database, wanted: dict[str, Any], told: str | None
) -> None:
    await add(database)
    answer = await desk.client(OPERATOR).post("/api/sources", json={"name": "new"} | WHY | wanted)
    if told is None:
        assert answer.status_code == 201
    else:
        assert answer.status_code == 400, answer.text
        assert told in answer.json()["detail"]


# --- changing one -----------------------------------------------------------------------------


async def test_the_form_of_settings_is_as_it_is_and_changes_what_is_changed(
    desk: Served, database: Database, pg: asyncpg.Connection
) -> None:
    config = {"resources": ("invoice", "radar", "customer"), "tombstones": True, "dlq": False}
    public_id = await add(database, "shop", "whsec_canary", **config)
    before, _ = await stored(database)
    there = f"/sources/{public_id}/edit"
    form = typed(await page_of(desk, there)) | WHY
    same = page_in(await send(desk, there, there, form), 409)
    assert "Source shop is like that already." in same.text
    changed = form | {"name": "store", "mode": "live", "metadata": None, "dlq": "yes"}
    answer = await send(desk, there, there, {k: v for k, v in changed.items() if v is not None})
    assert answer.headers["location"] == f"/sources/{public_id}?did=edit"
    assert "The settings were changed." in (await page_of(desk, answer.headers["location"])).text
    after, secrets = await stored(database, "store")
    assert secrets == ("whsec_canary",)
    now = {
        name
        for name in SourceConfig.__struct_fields__
        if getattr(before.config, name) != getattr(after.config, name)
    }
    assert now == {"name", "mode", "metadata", "dlq"}
    assert await log(pg) == [("dashboard", "source.update", "a new shop")]
    assert await details(pg) == {"changed": ["name", "metadata", "dlq", "mode"]}
    assert "source.update name, metadata, dlq, mode" in (await page_of(desk, "/operator-log")).text


async def test_whoever_was_overtaken_is_told(desk: Served, database: Database) -> None:
    there = f"/sources/{await add(database)}/edit"
    form = typed(await page_of(desk, there)) | WHY | {"default_topic": "mine"}
    client = desk.client(OPERATOR)
    answer = await client.patch("/api/sources/shop", json=WHY | {"default_topic": "theirs"})
    assert answer.json()["default_topic"] == "theirs"
    page = page_in(await send(desk, there, there, form), 409)
    assert "was changed by somebody else meanwhile" in page.text
    again = typed(page)
    assert again["default_topic"] == "mine"
    assert (await send(desk, there, there, again)).status_code == 303
    found, _ = await stored(database)
    assert found.config.default_topic == "mine"


async def test_a_wrong_change_keeps_what_was_typed(desk: Served, database: Database) -> None:
    there = f"/sources/{await add(database)}/edit"
    form = typed(await page_of(desk, there)) | WHY
    page = page_in(await send(desk, there, there, form | {"topic_prefix": "a b"}), 400)
    assert typed(page)["topic_prefix"] == "a b"
    del form["insecure"]
    page = page_in(await send(desk, there, there, form), 400)
    assert "“Signing secret” is missing" in page.text


async def test_secrets_are_added_replaced_and_removed(
    desk: Served, database: Database, pg: asyncpg.Connection
) -> None:
    public_id = await add(database)
    await press(desk, public_id, "add-secret", signing_secrets="whsec_canary_1")
    found, secrets = await stored(database)
    assert secrets == ("whsec_canary_1",)
    assert not found.config.insecure
    told = {"changed": ["insecure", "signing_secrets"], "secrets_added": 1, "secrets_removed": 0}
    assert await details(pg) == told
    await press(desk, public_id, "replace-secrets", signing_secrets="whsec_canary_2 whsec_canary_3")
    assert (await stored(database))[1] == ("whsec_canary_2", "whsec_canary_3")
    told = {"changed": ["signing_secrets"], "secrets_added": 2, "secrets_removed": 1}
    assert await details(pg) == told
    await press(desk, public_id, "remove-secret", ending="ry_2")
    assert (await stored(database))[1] == ("whsec_canary_3",)
    there = f"/sources/{public_id}"
    for action, fields, status, why in (
        ("add-secret", {"signing_secrets": "whsec_canary_3"}, 409, "like that already"),
        ("add-secret", {"signing_secrets": " "}, 400, "“Signing secret” is blank"),
        ("remove-secret", {"ending": "ry_9"}, 400, "0 of the source's 1 secrets end"),
        ("remove-secret", {"ending": "3"}, 400, "4 or more characters"),
        ("remove-secret", {"ending": "ry_3"}, 400, "“Signing secret” is missing"),
        ("set-stripe-key", {"stripe_api_key": "whsec_canary"}, 400, "“Stripe API key”: that is a"),
        ("forget-stripe-key", {}, 409, "like that already"),
    ):
        answer = await send(desk, there, f"{there}/{action}", WHY | fields)
        assert why in page_in(answer, status).text
    await press(desk, public_id, "remove-secret", ending="ry_3", insecure="yes")
    found, secrets = await stored(database)
    assert (secrets, found.config.insecure) == ((), True)
    await press(desk, public_id, "set-stripe-key", stripe_api_key="rk_test_canary")
    assert await details(pg) == {"changed": ["stripe_api_key"]}
    await press(desk, public_id, "forget-stripe-key")
    assert {action for _, action, _ in await log(pg)} == {"source.update"}
    assert len(await log(pg)) == 6
    assert "canary" not in str(await pg.fetch("SELECT * FROM relay.operator_log"))


async def test_a_program_changes_what_it_names(
    desk: Served, database: Database, pg: asyncpg.Connection
) -> None:
    await add(database, "shop", "whsec_first")
    client = desk.client(OPERATOR)

    async def patch(status: int, **wanted: Any) -> Any:
        answer = await client.patch("/api/sources/shop", json=WHY | wanted)
        assert answer.status_code == status, answer.text
        assert "whsec" not in answer.text.replace("whsec_...", "")
        return answer.json()

    found = await patch(200, tolerance=60, add_signing_secrets=["whsec_second"])
    assert (found["tolerance"], found["signing_secrets"]) == (60, 2)
    told = {"changed": ["tolerance", "signing_secrets"], "secrets_added": 1, "secrets_removed": 0}
    assert await details(pg) == told
    await patch(200, remove_signing_secrets=["first"], stripe_api_key="sk_test_1")
    assert (await stored(database))[1] == ("whsec_second",)
    await patch(200, stripe_api_key=None)
    assert (await stored(database))[0].sealed_stripe_key is None
    await patch(200, signing_secrets=["whsec_third"])
    assert (await stored(database))[1] == ("whsec_third",)
    assert "signing_secrets is missing" in (await patch(400, signing_secrets=[]))["detail"]
    await patch(200, signing_secrets=[], insecure=True)
    assert "nothing to change" in (await patch(400))["detail"]
    await patch(409, tolerance=60)
    gone = (await patch(400, remove_signing_secrets=["none"]))["detail"]
    assert gone.startswith("remove_signing_secrets: 0 of the source's 0")
    assert "fan_out" in (await patch(400, fan_out=["x"]))["detail"]
    assert len(await log(pg)) == 5


# --- keys, forwarding, deletion ---------------------------------------------------------------


async def test_a_new_key_is_shown_once_and_not_made_twice(
    desk: Served, database: Database, pg: asyncpg.Connection
) -> None:
    public_id = await add(database)
    there = f"/sources/{public_id}"
    page = await page_of(desk, there)
    (newest,) = [a["value"] for a in page.tags("input") if a.get("name") == "newest_key"]
    browser = await desk.browser()
    form = WHY | {"grace": "2h", "newest_key": newest}
    form |= {"csrf_token": await csrf_token(browser, there)}
    shown = page_in(await browser.post(f"{there}/rotate-key", data=form))
    key = shown.text.partition("?api_key=")[2].partition(" ")[0]
    assert key.startswith("relay_")
    assert "in the next 2h" in shown.text
    for newer in (newest, "", "x"):
        again = page_in(
            await browser.post(f"{there}/rotate-key", data=form | {"newest_key": newer}), 409
        )
        assert "was rotated since the page was loaded" in again.text
    rows = await pg.fetch("SELECT sha256, expires_at FROM relay.api_key ORDER BY id")
    assert [row["expires_at"] is None for row in rows] == [False, True]
    assert rows[1]["sha256"] == hashlib.sha256(key.encode()).digest()
    told = (await desk.client(VIEWER).get(f"/api{there}")).json()
    assert told["health"]["good_keys"] == 2
    assert [each["code"] for each in told["warnings"]] == ["key_ends", "unverified"]
    assert key not in (await browser.get(there)).text
    assert await log(pg) == [("dashboard", "source.rotate_key", "a new shop")]


async def test_a_source_without_a_key_is_told_and_gets_one(
    desk: Served, database: Database, pg: asyncpg.Connection
) -> None:
    there = f"/sources/{await add(database, 'Shop', 'whsec_a')}"
    await pg.execute("DELETE FROM relay.api_key")
    page = await page_of(desk, there)
    assert "everything is answered 401" in page.text
    form = WHY | {"grace": "0", "newest_key": ""}
    page_in(await send(desk, there, f"{there}/rotate-key", form))
    assert "everything is answered 401" not in (await page_of(desk, there)).text


async def test_a_program_rotates_the_key(desk: Served, database: Database) -> None:
    await add(database)
    client = desk.client(OPERATOR)
    made = (await client.post("/api/sources/shop/rotate-key", json=WHY | {"grace": "0"})).json()
    assert made["webhook_url"].endswith(f"?api_key={made['api_key']}")
    assert made["old_keys_end_in_seconds"] == 0
    for grace in ("tomorrow", "", "-1h", "\x00"):
        answer = await client.post("/api/sources/shop/rotate-key", json=WHY | {"grace": grace})
        assert answer.status_code == 400
        assert "grace" in answer.json()["detail"]
    assert (await client.get("/api/sources/shop")).json()["health"]["good_keys"] == 1


async def test_one_is_paused_and_resumed(
    desk: Served, database: Database, pg: asyncpg.Connection
) -> None:
    public_id = await add(database, "shop", "whsec_canary")
    assert "paused: it receives" in (await press(desk, public_id, "pause")).text
    assert "paused" in (await page_of(desk, "/sources")).text
    assert "forwards again" in (await press(desk, public_id, "resume")).text
    client = desk.client(OPERATOR)
    refused = await client.post("/api/sources/shop/resume", json=WHY)
    assert refused.status_code == 409
    assert "Source shop is forwarding: nothing to resume." in refused.json()["detail"]
    await pg.execute(
        "UPDATE relay.source SET halted_at = now(), halted_code = 'too_large',"
        " halted_error = 'no', halted_number = 1"
    )
    found = (await client.get("/api/sources/shop")).json()
    assert [each["code"] for each in found["warnings"]] == ["halted"]
    assert "too_large: no" in (await page_of(desk, f"/sources/{public_id}")).text
    assert (await client.post("/api/sources/shop/pause", json=WHY)).status_code == 409
    answer = await client.post("/api/sources/shop/resume", json=WHY)
    assert answer.json()["state"] == "forwarding"
    assert [action for _, action, _ in await log(pg)] == [
        f"source.{each}" for each in ("pause", "resume", "resume")
    ]


async def test_one_is_deleted_by_its_name(
    desk: Served, database: Database, pg: asyncpg.Connection
) -> None:
    public_id = await add(database, "Shop")
    found, _ = await stored(database, "Shop")
    ids = await store(pg, *(new_event(found.config.source_id) for _ in range(3)))
    await bury(pg, ids[0])
    there = f"/sources/{public_id}"
    for fields, status, why in (
        ({"confirm": "shop"}, 400, "write the name of the source"),
        ({"confirm": "Shop"}, 409, "Source Shop has 2 waiting events and 1 dead letters"),
    ):
        answer = await send(desk, there, f"{there}/delete", WHY | fields)
        assert why in page_in(answer, status).text
    assert await log(pg) == []
    form = WHY | {"confirm": " Shop ", "discard_pending": "yes"}
    answer = await send(desk, there, f"{there}/delete", form)
    assert answer.headers["location"] == "/sources?did=delete"
    assert "The source was deleted." in (await page_of(desk, "/sources?did=delete")).text
    await page_of(desk, there, status=404)
    assert [action for _, action, _ in await log(pg)] == ["source.discard", "source.delete"]
    await add(database)
    client = desk.client(OPERATOR)
    wrong = await client.post("/api/sources/shop/delete", json=WHY | {"confirm": ""})
    assert wrong.status_code == 400
    gone = await client.post("/api/sources/shop/delete", json=WHY | {"confirm": "shop"})
    assert gone.json().items() >= {"name": "shop", "discarded_events": 0}.items()


async def test_there_is_none_of_that_name(desk: Served) -> None:
    client = desk.client(OPERATOR)
    for name in ("nobody", "%00", "src_x", "x" * 1000, "%F0%9F%98%80"):
        for path in (f"/sources/{name}", f"/sources/{name}/edit"):
            await page_of(desk, path, status=404)
        assert (await client.get(f"/api/sources/{name}")).status_code == 404
        for action in ("pause", "resume", "rotate-key"):
            answer = await client.post(f"/api/sources/{name}/{action}", json=WHY)
            assert answer.status_code == 404
        answer = await client.patch(f"/api/sources/{name}", json=WHY | {"tolerance": 1})
        assert answer.status_code == 404


# --- health -----------------------------------------------------------------------------------


async def warnings(desk: Served, name: str = "shop") -> dict[str, str]:
    found = (await desk.client(VIEWER).get(f"/api/sources/{name}")).json()
    return {each["code"]: each["text"] for each in found["warnings"]}


async def test_health_is_told_by_source(
    desk: Served, database: Database, pg: asyncpg.Connection
) -> None:
    await add(database, "shop", "whsec_a")
    await add(database, "quiet", "whsec_a")
    found, _ = await stored(database)
    ids = await store(pg, *(new_event(found.config.source_id) for _ in range(4)))
    await fail(pg, ids[0])
    await bury(pg, ids[1])
    last = await pg.fetchval("SELECT max(received_at) FROM relay.inbox")
    shop, quiet = (await desk.client(VIEWER).get("/api/sources")).json()["sources"]
    health = shop["health"]
    assert [health[name] for name in ("pending", "retrying", "dead")] == [2, 1, 1]
    assert datetime.fromisoformat(health["last_event_at"]) == last
    (version,) = health["api_versions"]
    assert (version["api_version"], version["events"]) == ("2026-08-26.dahlia", 4)
    assert (health["live_events"], health["test_events"]) == (0, 4)
    assert quiet["health"]["last_event_at"] is None
    assert quiet["health"]["pending"] == 0
    assert shop["warnings"] == quiet["warnings"] == []
    page = await page_of(desk, "/sources")
    assert "forwarding" in page.text
    links = [a["href"] for a in page.tags("a")]
    assert "/events?source=shop&state=retrying" in links


async def test_another_api_version_is_told(
    desk: Served, database: Database, pg: asyncpg.Connection
) -> None:
    for name in ("moved", "several", "long_ago"):
        await add(database, name, "whsec_a")
    ids = {}
    for name in ("moved", "several", "long_ago"):
        ids[name] = (await stored(database, name))[0].config.source_id
    old, new = {"api_version": "2024-04-10"}, {"api_version": "2026-08-26.dahlia"}
    for name, versions in (("moved", (old, new)), ("several", (old, new, old))):
        for each in versions:
            await store(pg, new_event(ids[name], **each))
    # What is no event has none, and what a snapshot has read is of another one by design.
    await store(pg, new_event(ids["long_ago"], api_version=None))
    await store(pg, new_event(ids["long_ago"], "snap_1_cus", origin="snapshot", **old))
    await store(pg, new_event(ids["long_ago"], **new))
    moved = await warnings(desk, "moved")
    assert list(moved) == ["api_version_changed"]
    assert "2026-08-26.dahlia now; at 20" in moved["api_version_changed"]
    assert "it was 2024-04-10." in moved["api_version_changed"]
    assert list(await warnings(desk, "several")) == ["several_api_versions"]
    assert await warnings(desk, "long_ago") == {}


async def test_events_of_the_wrong_mode_are_told(
    desk: Served, database: Database, pg: asyncpg.Connection
) -> None:
    expected = {"any": ["both_modes"], "live": ["wrong_mode"], "test": ["wrong_mode"]}
    for mode in expected:
        await add(database, mode, "whsec_a", mode=mode)
        source_id = (await stored(database, mode))[0].config.source_id
        for livemode in (True, False, None):
            await store(pg, new_event(source_id, livemode=livemode))
    for mode, codes in expected.items():
        assert list(await warnings(desk, mode)) == codes
    assert "1 of 2" in (await warnings(desk, "live"))["wrong_mode"]


async def test_silence_is_told(desk: Served, database: Database, pg: asyncpg.Connection) -> None:
    for name in ("stopped", "unheard", "new"):
        await add(database, name, "whsec_a")
    await pg.execute(
        "UPDATE relay.source SET created_at = now() - interval '9 days' WHERE name <> 'new'"
    )
    source_id = (await stored(database, "stopped"))[0].config.source_id
    await pg.execute(
        "INSERT INTO relay.event_key (event_id, source_id, inbox_id, received_at)"
        " SELECT 'evt_' || n, $1::int, n, now() - interval '3 days' - n * interval '1 minute'"
        " FROM generate_series(1, 500) AS n UNION ALL"
        " SELECT 'snap_1_' || n, $1, -n, now() FROM generate_series(1, 5) AS n",
        source_id,
    )
    assert "nothing for 3d 0h, and used to every 1m" in (await warnings(desk, "stopped"))["silent"]
    assert (
        "made 9d 0h ago and has received nothing yet" in (await warnings(desk, "unheard"))["silent"]
    )
    assert await warnings(desk, "new") == {}


# --- who may, and what strangers write --------------------------------------------------------


async def test_a_viewer_sees_no_secret_and_does_nothing(
    desk: Served, database: Database, pg: asyncpg.Connection
) -> None:
    public_id = await add(database, "shop", "whsec_canary")
    there = f"/sources/{public_id}"
    browser = await desk.browser(VIEWER)
    token = await csrf_token(browser, "/sources")
    for path in ("/sources", "/sources/new", there, f"{there}/edit"):
        page = await page_of(desk, path, VIEWER)
        assert "Reason" not in page.text
        assert [a for a in page.tags("form") if "/sources" in a.get("action", "")] == []
    actions = ("edit", "pause", "resume", "rotate-key", "delete", "add-secret", "remove-secret")
    actions += ("replace-secrets", "set-stripe-key", "forget-stripe-key")
    form = FILLED | {"csrf_token": token, "confirm": "shop"}
    for path in ("/sources", *(f"{there}/{each}" for each in actions)):
        assert (await browser.post(path, data=form)).status_code == 403, path
    client = desk.client(VIEWER)
    for path in ("pause", "resume", "rotate-key", "delete"):
        answer = await client.post(f"/api{there}/{path}", json=WHY)
        assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")
    assert (await client.post("/api/sources", json=WHY)).status_code == 403
    assert (await client.patch(f"/api{there}", json=WHY)).status_code == 403
    assert await log(pg) == []


async def test_a_form_needs_its_session_s_token(
    desk: Served, database: Database, pg: asyncpg.Connection
) -> None:
    there = f"/sources/{await add(database)}"
    browser = await desk.browser()
    other = await csrf_token(await desk.browser(), "/sources/new")
    actions = ("edit", "pause", "rotate-key", "delete", "add-secret", "forget-stripe-key")
    for path in ("/sources", *(f"{there}/{each}" for each in actions)):
        for wrong in ({}, {"csrf_token": other}):
            answer = await browser.post(path, data=FILLED | {"confirm": "shop"} | wrong)
            assert answer.status_code == 403, path
    answer = await browser.patch(f"/api{there}", json=WHY | {"tolerance": 1})
    assert answer.json()["error"] == "wrong_csrf_token"
    assert await log(pg) == []


@pytest.mark.parametrize("text", HOSTILE)
async def test_a_hostile_name_stays_text(
    desk: Served, database: Database, pg: asyncpg.Connection, text: str
) -> None:
    public_id = await add(database)
    await pg.execute(
        "UPDATE relay.source SET name = $1, halted_at = now(), halted_code = $1,"
        " halted_error = $1, halted_number = 1, default_topic = $1, topic_prefix = $1,"
        " resources = ARRAY[$1], dlq_topic = $1",
        text,
    )
    source_id = await pg.fetchval("SELECT id FROM relay.source")
    await store(pg, new_event(source_id, api_version=text), new_event(source_id))
    there = f"/sources/{public_id}"
    for token in (OPERATOR, VIEWER):
        for path in ("/sources", there, f"{there}/edit", "/"):
            answer = await desk.client(token).get(path)
            assert answer.status_code == 200, answer.text
            assert Page(answer.text).faults == [], path
            assert not set(INVISIBLE) & set(answer.text), path
    assert (await desk.client(VIEWER).get(f"/api{there}")).json()["name"] == text
    answer = await desk.client(OPERATOR).get(f"/sources/{quote(text, safe='')}")
    assert answer.status_code in (200, 404)


@pytest.mark.parametrize("text", HOSTILE)
async def test_what_is_typed_stays_text(desk: Served, text: str) -> None:
    form = dict.fromkeys(FILLED, text) | {"csrf_token": ""}
    for changes in ({}, {"name": "x", "tolerance": "1"}, {"every": "yes", "tolerance": "1"}):
        answer = await send(desk, "/sources/new", "/sources", form | changes)
        assert answer.status_code == 400
        assert Page(answer.text).faults == []
        assert not set(INVISIBLE) & set(answer.text)
    for path in (f"/sources/new?did={quote(text)}", f"/sources?did={quote(text)}"):
        await page_of(desk, path)
