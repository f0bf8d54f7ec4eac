"""`relay demo` as a new user runs it, and that its proof can fail."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from relay.dev import backfill, report, samples, traffic
from relay.dev.evidence import DeadLetters, Evidence, Receipt, Row, Standing, content_of
from relay.dev.sender import Answer, Sent
from relay.dev.traffic import MARKETPLACE, SHOP, Expected
from relay.dev.verdict import Facts, check
from tests.support.commands import Command

NOW = datetime(2026, 6, 1, tzinfo=UTC)
STORED = Answer(200, {"received": True})
DUPLICATE = Answer(200, {"received": True, "duplicate": True})


# The command


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "some where else")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one demo says with --json."""
    done = Command(tmp_path_factory.mktemp("demo")).run("demo", "--events", "120", "--json")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_everything_is_accounted_for(told: dict[str, Any]) -> None:
    assert told["ok"] is True
    assert told["missing"] == []
    assert all(not each["violations"] for each in told["checks"])
    assert told["accepted"] == 120 + traffic.SPECIALS - traffic.REFUSED
    assert told["states"] == {"delivered": 120, "dead": 2, "skipped": 1}
    assert told["refused"] == 1
    assert told["duplicates"] == 6
    assert told["listed"] == sum(backfill.OBJECTS.values())
    assert told["requests"] == told["accepted"] + told["refused"] + told["duplicates"]
    assert told["records"] == sum(topic["records"] for topic in told["topics"])
    letters = {letter["code"]: letter["stored"] for letter in told["dead_letters"]}
    assert letters == {"invalid_topic": True, "signature_wrong": False, "thin_payload": True}


def test_shows_what_the_product_does(told: dict[str, Any]) -> None:
    topics = {topic["topic"]: topic for topic in told["topics"]}

    assert {"customer", "charge", "invoice", "payment_intent", "unknown"} <= topics.keys()
    assert {"invoice_lines", "charge_refunds", "subscription_items"} <= topics.keys()
    assert {"dead_letter", "marketplace-dead_letter", "marketplace-account"} <= topics.keys()
    assert topics["customer"]["tombstones"] > 0
    assert topics["customer"]["keys"] < topics["customer"]["records"]


def test_leaves_nothing_behind_and_tells_people(command: Command) -> None:
    done = command.run("demo", "--events", "1")

    assert command.left_running() == []
    assert list(command.temporary.iterdir()) == []
    assert list(command.home.iterdir()) == []
    assert {*command.directory.iterdir()} == {command.temporary, command.home}
    assert "Nothing is missing." in done.stdout
    assert "\nsignature_wrong" in done.stdout
    # No terminal: lines instead of bars, and no log line among them.
    assert "forwarded  4/4" in done.stderr
    assert {line.split()[0] for line in done.stderr.splitlines()} == {
        "start",
        "posted",
        "forwarded",
        "snapshot",
        "check",
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_of_it(command: Command, number: int) -> None:
    process = command.start("demo", "--events", "1000000")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("forwarded"):
            break
    process.send_signal(number)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 1
    assert said.endswith("relay: stopped by a signal\n")
    assert command.left_running() == []
    assert list(command.temporary.iterdir()) == []


LOSE_A_RECORD = """
import sys
import msgspec
from relay.dev import demo, evidence
gather = evidence.gather
async def lossy(*args):
    seen = await gather(*args)
    lost = next(each for each in seen.standing if each.place[0] == "charge")
    return msgspec.structs.replace(
        seen, standing=tuple(each for each in seen.standing if each is not lost)
    )
evidence.gather = lossy
sys.exit(demo.run(20, True))
"""


def test_a_lost_record_is_found(command: Command) -> None:
    told = json.loads(command.run(script=LOSE_A_RECORD, exits=1).stdout)
    assert told["ok"] is False
    assert len(told["missing"]) == 1
    assert "there is no record at charge, partition" in told["missing"][0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory private to root")
def test_root_may_use_a_private_temporary_directory(command: Command) -> None:
    command.temporary.chmod(0o700)
    command.run("demo", "--events", "1", "--json")


# What it posts


def test_posts_all_types_and_every_id_once() -> None:
    postings = [posting for line in traffic.lines(1000) for posting in line]

    assert len(postings) == 1000 + traffic.SPECIALS
    assert len({posting.event_id for posting in postings}) == len(postings)
    types = {json.loads(posting.body).get("type") for posting in postings}
    assert {each.name for each in samples.event_types()} <= types


def test_what_is_prepared_is_the_same() -> None:
    assert [list(line) for line in traffic.prepared(30)] == [
        list(line) for line in traffic.lines(30)
    ]


def test_expects_a_tombstone_and_the_elements_of_lists() -> None:
    gone = samples.sample("customer.deleted")
    assert traffic.delivered(gone.body, SHOP).contents[1:] == (None,)
    assert len(traffic.delivered(gone.body, MARKETPLACE).contents) == 1

    paid = samples.sample("invoice.paid")
    lines = paid.event["data"]["object"]["lines"]["data"]
    assert len(traffic.delivered(paid.body, SHOP).contents) == 1 + len(lines) > 1


def test_contents_are_compared_by_token() -> None:
    def content(text: str) -> bytes | None:
        return content_of(text.encode(), {})

    assert content('{"a":1,"b":2}') == content('{ "b": 2, "a": 1, "_event_id": "evt" }')
    assert content('{"a":1.10}') != content('{"a":1.1}')
    assert content('{"a":1}') != content('{"a":"1"}')
    assert content("not JSON") != content("not JSON either")
    assert content_of(None, {}) is None


# The proof


def event(number: int, *, began: float, answers: tuple[Answer, ...] = (STORED,)) -> Sent:
    accepted = any(answer.accepted for answer in answers)
    return Sent(
        source="shop",
        event_id=f"evt_{number}",
        sha256=b"sha of evt_%d" % number,
        expected=Expected("delivered", None, (b"value of evt_%d" % number,)),
        answers=answers,
        began=began,
        answered=began + 0.5 if accepted else None,
        retried=False,
    )


def sound() -> Facts:
    """Three events of one object, a dead one, one that was refused, and an object that was read.

    All as it should be.
    """
    sent = [
        event(1, began=10.0),
        event(2, began=11.0, answers=(STORED, DUPLICATE)),
        event(3, began=12.0),
        msgspec.structs.replace(event(4, began=13.0), expected=Expected("dead", "thin_payload")),
        msgspec.structs.replace(
            event(5, began=14.0, answers=(Answer(400, {"error": "signature_wrong"}),)),
            expected=Expected("refused", "signature_wrong"),
        ),
    ]
    rows = [
        Row(number, "shop", f"evt_{number}", "delivered", None, b"sha of evt_%d" % number)
        for number in (1, 2, 3)
    ]
    rows.append(Row(4, "shop", "evt_4", "dead", "thin_payload", b"sha of evt_4"))
    rows.append(
        Row(6, "shop", "snap_1_ch_1", "delivered", None, b"any", "snapshot", object_id="ch_1")
    )
    receipts = [
        Receipt(number, 0, ("customer", 1, number), b'{"id":"cus"}', NOW, False)
        for number in (1, 2, 3)
    ]
    receipts.append(Receipt(4, 0, ("dead_letter", 0, 0), b'{"id":"evt_4"}', NOW, True))
    receipts.append(Receipt(6, 0, ("charge", 0, 0), b'{"id":"ch_1"}', NOW, False))
    standing = [
        Standing(
            ("customer", 1, number), b'{"id":"cus"}', f"evt_{number}", b"value of evt_%d" % number
        )
        for number in (1, 2, 3)
    ]
    standing.append(Standing(("dead_letter", 0, 0), b'{"id":"evt_4"}', "evt_4", b"sha of evt_4"))
    standing.append(Standing(("charge", 0, 0), b'{"id":"ch_1"}', "snap_1_ch_1", b"value of ch_1"))
    letters = (DeadLetters("thin_payload", True, 1),)
    evidence = Evidence(tuple(rows), tuple(receipts), tuple(standing), letters)
    return Facts(sent, evidence, (backfill.Listed("shop", "ch_1", b"value of ch_1"),))


def doctored(kind: str, index: int | None, /, **changes: Any) -> Facts:
    """The sound facts with one of them changed, or left out when nothing is to change."""
    facts = sound()
    of = facts if kind in ("sent", "listed") else facts.evidence
    items: list[Any] = list(getattr(of, kind))
    if index is None:
        items.append(msgspec.structs.replace(items[0], **changes))
    elif changes:
        items[index] = msgspec.structs.replace(items[index], **changes)
    else:
        del items[index]
    if kind == "sent":
        return Facts(items, facts.evidence, facts.listed)
    if kind == "listed":
        return Facts(facts.sent, facts.evidence, items)
    evidence = msgspec.structs.replace(facts.evidence, **{kind: tuple(items)})
    return Facts(facts.sent, evidence, facts.listed)


def violations(facts: Facts) -> list[str]:
    return [violation for each in check(facts) for violation in each.violations]


def test_sound_facts_pass() -> None:
    assert violations(sound()) == []
    assert report.summarize(sound(), 1.0).ok
    assert all(each.count > 0 for each in check(sound()))


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (doctored("standing", 1), "evt_2: there is no record at customer, partition 1, offset 2"),
        (doctored("rows", 0), "evt_1 was answered 2xx and is not in the inbox"),
        (doctored("rows", 0, sha256=b"another"), "evt_1 is stored with other bytes"),
        (doctored("rows", None), "evt_1 is in the inbox 2 times, not 1"),
        (doctored("rows", None, event_id="evt_9", inbox_id=9), "evt_9 is in the inbox and nobody"),
        (doctored("rows", 1, state="pending"), "evt_2 is pending (None), not delivered (None)"),
        (doctored("rows", 3, reason="too_large"), "evt_4 is dead (too_large), not dead (thin_pay"),
        (doctored("receipts", 2), "evt_3 has 0 receipts, not 1"),
        (doctored("receipts", 0, place=("customer", 1, 7)), "there is no record at customer, part"),
        (doctored("receipts", 0, place=("customer", 1, 2)), "a record of evt_2 stands at customer"),
        (doctored("receipts", 0, place=("customer", 1, 2)), "2 receipts name customer, partition"),
        (doctored("receipts", 3), "evt_4 has 0 dead letter copies, not 1"),
        (doctored("receipts", 1, is_dead_letter=True), "evt_2 has 1 dead letter copies, not 0"),
        (doctored("standing", 0, key=b"null"), "evt_1: another key stands at customer"),
        (doctored("standing", 0, content=None), "evt_1: the value at customer, partition 1, off"),
        (doctored("standing", 0, event_id=None), "evt_1: a record of None stands at customer"),
        (doctored("standing", None, event_id="evt_5"), "is of evt_5, which was not accepted"),
        (doctored("sent", 0, answers=(Answer(503, {}),)), "evt_1 was answered 503 {}"),
        (doctored("sent", 4, answers=(STORED,)), "and not 400 signature_wrong"),
        (doctored("sent", 1, answers=(STORED, STORED)), "evt_2 was taken for new 2 times"),
        (doctored("sent", 1, answers=(DUPLICATE,)), "evt_2 was taken for new 0 times"),
        (doctored("sent", 0, began=20.0), "evt_1 stands before evt_2, which was answered 8.500 s"),
        (doctored("rows", 4), "ch_1 was brought 0 times by the snapshot"),
        (doctored("rows", 4, state="pending"), "snap_1_ch_1 is pending (None)"),
        (doctored("standing", 4), "snap_1_ch_1: there is no record at charge, partition 0"),
        (doctored("listed", 0, content=b"x"), "snap_1_ch_1: the value at charge, partition 0"),
        (doctored("listed", 0), "ch_1 was brought, and the API does not list it"),
        (doctored("receipts", 2, place=("customer", 2, 3)), "is in 2 partitions of customer"),
    ],
)
def test_every_breach_is_found(facts: Facts, said: str) -> None:
    assert [line for line in violations(facts) if said in line], violations(facts)
    assert not report.summarize(facts, 1.0).ok


def test_a_lost_answer_may_make_a_duplicate_of_the_first() -> None:
    assert violations(doctored("sent", 1, answers=(DUPLICATE,), retried=True)) == []


def test_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    facts = sound()
    lost = msgspec.structs.replace(facts.evidence, rows=(), receipts=(), standing=())
    report.write(report.summarize(Facts(list(facts.sent) * 8, lost), 1.0))
    said = capsys.readouterr().out
    assert "evt_1 was answered 2xx and is not in the inbox" in said
    assert "FAILED" in said
    assert "more, which --json lists" in said


@pytest.mark.parametrize("query", [query for _, query in report.QUERIES])
async def test_the_queries_to_try_work(direct_url: str, query: str) -> None:
    connection = await asyncpg.connect(direct_url)
    try:
        await connection.fetch(query)
    finally:
        await connection.close()
