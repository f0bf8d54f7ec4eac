"""docs/cookbook.md: every query answers its question on a real inbox, with an auditor's rights."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from relay.core import signature
from relay.dev import samples
from relay.dev.samples import Sample
from tests.docs import pages
from tests.docs.terminals import FirstTerminal, Shell, terminals

# The ids that the page uses.
CUSTOMER = "cus_NffrFeUfNV2Hib"
EVENT = "evt_1NG8Du2eZvKYlo2C"
NO_ROW_IS_GOOD = "-- No row is the good answer.\n"


def queries() -> list[str]:
    return [block.text for block in pages.blocks(pages.read("cookbook.md"))]


def test_there_are_twenty_questions() -> None:
    numbers = re.findall(r"^### (\d+)\. .*\?$", pages.read("cookbook.md"), re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 21)]
    assert len(queries()) == 20


@pytest.mark.slow
async def test_every_query_has_an_answer(tmp_path: Path) -> None:
    with terminals(tmp_path / "cookbook") as (first, second):
        first.start()
        fill_inbox(first, second)
        auditor = await login(first.left["RELAY_DATABASE_URL"])
        try:
            answers = [await auditor.fetch(query) for query in queries()]
        finally:
            await auditor.close()
    for query, rows in zip(queries(), answers, strict=True):
        assert bool(rows) is not query.startswith(NO_ROW_IS_GOOD), query
    check_answers([list(map(dict, rows)) for rows in answers])


def check_answers(answers: list[list[dict[str, Any]]]) -> None:
    """Of those that could be wrong without being empty, by their numbers."""
    told = dict(enumerate(answers, 1))
    assert (told[1][0]["pending"], told[1][0]["dead"]) == (1, 1)
    assert [row["event_id"] for row in told[2]] == ["evt_waits"]
    assert [row["topic"] for row in told[4]] == ["customer"]
    assert [row["event_type"] for row in told[5]] == ["customer.created", "customer.updated"]
    assert ("email", '"alt@example.pl"') in [(row["field"], row["before"]) for row in told[6]]
    assert [row["event_id"] for row in told[7]] == [EVENT]
    assert [row["error_code"] for row in told[10]] == ["thin_payload"]
    assert [row["error_code"] for row in told[11]] == ["signature_wrong"]
    assert [row["skip_reason"] for row in told[12]] == ["discarded"]
    states = [told[14][0][name] for name in ("delivered", "skipped", "dead", "waiting")]
    assert states == [9, 1, 1, 1]
    assert told[14][0]["answered"] == sum(states)
    assert {row["action"] for row in told[15]} > {"object.redact", "source.pause"}
    assert [(row["object_id"], row["events"]) for row in told[16]] == [("cus_forget", 1)]
    assert [row["payments"] for row in told[17]] == [2]
    assert len(told[18]) == 1
    assert [row["invoice"] for row in told[19]] == ["in_unpaid"]
    assert [(row["status"], row["count"]) for row in told[20]] == [("paused", 1)]


def fill_inbox(first: FirstTerminal, second: Shell) -> None:
    """Something of everything that the page asks for."""

    def run(command: str) -> str:
        status, printed = second.run(command)
        assert status == 0, printed
        return printed

    def all_settled() -> None:
        end = time.monotonic() + 60
        while json.loads(run("relay events list --state pending --json")):
            assert time.monotonic() < end
            time.sleep(0.1)

    run("relay roles apply")
    for event in events():
        assert post(first, event.body) == 200, event.event_type
    assert post(first, samples.thin_body(1)) == 200
    assert post(first, events()[0].body, secret="whsec_another") == 400
    all_settled()
    run("relay dlq discard --error thin_payload --reason 'made by hand' --yes")
    assert post(first, samples.thin_body(2)) == 200
    run("relay redact cus_forget --reason 'privacy request 1748' --yes")
    run("relay source pause dev")
    waits = samples.sample("customer.created", seed=9, event_id="evt_waits")
    assert post(first, waits.body) == 200


def events() -> list[Sample]:
    """In the order in which they are sent."""

    def live(event_type: str, seed: int, **ids: str) -> Sample:
        return samples.sample(event_type, seed=seed, livemode=True, **ids)

    return [
        live("customer.created", 1, object_id=CUSTOMER, event_id=EVENT),
        live("customer.updated", 2, object_id=CUSTOMER),
        live("customer.created", 3, object_id="cus_forget"),
        live("payment_intent.succeeded", 4),
        live("payment_intent.succeeded", 5),
        live("charge.refunded", 6),
        live("invoice.payment_failed", 7, object_id="in_unpaid"),
        live("customer.subscription.updated", 8, object_id="sub_1"),
        live("customer.subscription.paused", 9, object_id="sub_1"),
    ]


def post(first: FirstTerminal, body: bytes, secret: str = "") -> int:
    header = signature.sign(body, secret or first.left["DEV_SIGNING_SECRET"], int(time.time()))
    return httpx.post(
        first.left["DEV_WEBHOOK_URL"],
        content=body,
        headers={"Stripe-Signature": header},
        trust_env=False,
    ).status_code


async def login(url: str) -> asyncpg.Connection:
    """A connection as somebody who may only read."""
    owner = await asyncpg.connect(url)
    try:
        await owner.execute("CREATE ROLE reader LOGIN PASSWORD 'reader' IN ROLE relay_auditor")
    finally:
        await owner.close()
    parts = url.partition("://")[2].partition("@")[2]
    return await asyncpg.connect(f"postgresql://reader:reader@{parts}")
