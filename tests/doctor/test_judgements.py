"""What the checks make of facts that are hard to come by, or that no test should wait for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from relay.core.source import SourceConfig
from relay.doctor import configuration, examination, finding, server, sessions, sources
from relay.doctor.check import Check
from relay.doctor.finding import Finding, Result, ok, overall
from relay.doctor.patient import Patient
from relay.doctor.routes import meetings, named_topics, routes_of
from relay.doctor.upkeep import judge_horizon, judge_partitions, judge_wraparound
from relay.settings import Settings
from relay.store.engine import MAX_OVERFLOW
from relay.store.server import Replication, Server, Standby
from relay.store.traffic import Activity, PartitionState
from relay.store.vitals import Holder
from tests.doctor.conftest import verdicts

SERVER = Server(
    version="18.1",
    version_number=180_001,
    encoding="UTF8",
    isolation="read committed",
    max_connections=100,
    reserved_connections=3,
    connections=10,
    role_connection_limit=-1,
    database_connection_limit=-1,
    frozen_age=1000,
    encrypted=True,
    local=False,
    statement_timeout=0,
    idle_timeout=0,
    transaction_timeout=0,
    lock_timeout=0,
)


NEEDED = Settings().database_pool_size + MAX_OVERFLOW
"""By one process."""


def with_(**changes: Any) -> Server:
    return msgspec.structs.replace(SERVER, **changes)


# PostgreSQL ---------------------------------------------------------------------------------------


def test_an_old_server() -> None:
    assert verdicts(server.judge_version(with_(version_number=140_010))) == ["failed"]


@pytest.mark.parametrize(
    ("mode", "pooler", "changes", "verdict"),
    [
        ("prefer", "none", {"local": True, "encrypted": False}, "ok"),
        ("prefer", "none", {"encrypted": False}, "warning"),
        ("require", "none", {}, "warning"),
        ("verify-full", "none", {}, "ok"),
        ("require", "transaction", {"local": True}, "skipped"),
        ("verify-full", "transaction", {"encrypted": False}, "ok"),
    ],
)
def test_tls(mode: str, pooler: sessions.Pooler, changes: dict[str, Any], verdict: str) -> None:
    assert verdicts(sessions.judge_tls(with_(**changes), mode=mode, pooler=pooler)) == [verdict]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"statement_timeout": 4.0}, ["statement_timeout"]),
        ({"lock_timeout": 0.5}, ["lock_timeout"]),
        ({"idle_timeout": 19.0}, ["idle_in_transaction_session_timeout"]),
        ({"transaction_timeout": 19.0}, ["transaction_timeout"]),
        ({"statement_timeout": 30.0, "idle_timeout": 60.0, "lock_timeout": 2.0}, []),
    ],
)
def test_timeouts(changes: dict[str, Any], named: list[str]) -> None:
    found = sessions.judge_timeouts(with_(**changes), Settings())
    assert [each.reason.split()[0] for each in found if each.verdict == "warning"] == named


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "ok"),
        ({"connections": 90}, "warning"),
        ({"max_connections": 15}, "warning"),
        ({"database_connection_limit": NEEDED - 1}, "warning"),
        ({"database_connection_limit": NEEDED}, "ok"),
    ],
)
def test_connections(changes: dict[str, Any], verdict: str) -> None:
    assert verdicts(sessions.judge_connections(with_(**changes), Settings())) == [verdict]


def test_poolers() -> None:
    assert verdicts(sessions.judge_pooler("none")) == ["ok"]
    assert "transaction mode" in sessions.judge_pooler("transaction").reason
    assert "relay migrate" in sessions.judge_pooler("unknown").reason


@pytest.mark.parametrize(
    ("wanted", "states", "several", "verdict"),
    [
        ("", [], False, "ok"),
        ("", ["async"], False, "ok"),
        ("", ["async"], True, "skipped"),
        ("b", ["sync"], True, "ok"),
        ("ANY 1 (a, b)", ["quorum", "quorum"], True, "ok"),
        ("b", ["async"], True, "failed"),
        ("b", [], False, "failed"),
        ("b", [None], True, "skipped"),
    ],
)
def test_standbys(wanted: str, states: list[str | None], several: bool, verdict: str) -> None:
    found = Replication(wanted, tuple(Standby("b", state) for state in states))
    assert verdicts(server.judge_standbys(found, several_hosts=several)) == [verdict]


def test_wraparound() -> None:
    ages = (150_000_000, 1_200_000_000, 1_900_000_000)
    assert [judge_wraparound(age).verdict for age in ages] == ["ok", "warning", "failed"]


@pytest.mark.parametrize(
    ("ahead", "gap", "verdict"),
    [
        (None, None, "failed"),
        (-5.0, None, "failed"),
        (86_400.0, None, "warning"),
        (40 * 86_400.0, 40 * 86_400.0, "failed"),
        (40 * 86_400.0, None, "ok"),
    ],
)
def test_partitions(ahead: float | None, gap: float | None, verdict: str) -> None:
    state = PartitionState(ahead=ahead, gap=gap, overdue=0, oldest_overdue=None)
    assert verdicts(judge_partitions(state, retention_days=0)) == [verdict]


def test_slots_hold_vacuum_back_too() -> None:
    slot = Holder(
        kind="replication slot",
        name="gone",
        role=None,
        application_name=None,
        state="inactive",
        age=2_000_000,
        seconds=None,
    )
    (found,) = judge_horizon([slot], reads_statistics=True, role="x")
    assert "'gone' (inactive) holds rows for 2000000 transactions" in found.reason


# Sources ------------------------------------------------------------------------------------------


def source(name: str, **changes: Any) -> SourceConfig:
    return SourceConfig(source_id=1, public_id="src_1", name=name, **changes)


def test_the_topics_of_a_source() -> None:
    routes = routes_of(source("a", topic_prefix="p-", fan_out=("invoice.lines",)))
    wanted = {"customer", "payment_intent", "charge", "invoice", "unknown", "invoice_lines"}
    assert routes.records == {"p-" + name for name in wanted}
    assert routes.dead_letters == {"p-dead_letter"}
    quiet = source("b", resources=("customer",), unselected="SKIP", dlq_topic="")
    assert (routes_of(quiet).records, routes_of(quiet).dead_letters) == ({"customer"}, frozenset())
    # `*` leads nobody knows where, so that no topic can be missed.
    assert named_topics([source("c", resources=("*",))]).records == frozenset()


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ({}, {"topic_prefix": "p-"}, None),
        ({"resources": ("*",)}, {"resources": ("payout",), "default_topic": "x"}, {"payout"}),
        ({"resources": ("payout",)}, {"resources": ("charge",)}, {"unknown"}),
        ({"resources": ("a",), "default_topic": "b"}, {"resources": ("c",)}, None),
        ({"dlq_topic": "x"}, {"resources": ("x",), "unselected": "SKIP"}, {"x"}),
    ],
)
def test_where_sources_meet(
    one: dict[str, Any], other: dict[str, Any], common: set[str] | None
) -> None:
    found = meetings([source("one", **one), source("other", **other)])
    assert [each.topics for each in found] == ([] if common is None else [common])


@pytest.mark.parametrize(
    ("last", "gap", "verdict"),
    [
        (80_000, 1.0, "ok"),
        (90_000, 1.0, "warning"),
        (90_000, 10_000.0, "ok"),
        (110_000, 10_000.0, "warning"),
        (900_000, None, "ok"),
    ],
)
def test_silence(last: float, gap: float | None, verdict: str) -> None:
    activity = Activity(source="shop", created=10e6, last=last, usual_gap=gap)
    assert verdicts(sources.judge_silent([activity])) == [verdict]


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "verdict"),
    [
        (None, "warning"),
        ("http://relay.example.com", "warning"),
        ("https://relay.example.com", "ok"),
        ("http://127.0.0.1:8080", "ok"),
    ],
)
def test_the_public_url(url: str | None, verdict: str) -> None:
    assert verdicts(configuration.judge_public_url(url)) == [verdict]


def test_every_wrong_setting_is_told_and_the_others_are_used() -> None:
    settings, complaints = configuration.load_what_can_be(
        {
            "RELAY_DATABASE_URL": "postgresql://a@b/c",
            "RELAY_BATCH_ROWS": "many",
            "RELAY_RETENTION_DAY": "5",
            "RELAY_BATCH_TIMEOUT_SECONDS": "60",
            "RELAY_ADMIN_BIND": "0.0.0.0:8081",
            "RELAY_KAFKA_ACKS": "1",
        }
    )
    assert settings.database_url == "postgresql://a@b/c"
    assert [each.message.split()[0] for each in complaints] == [
        "RELAY_BATCH_ROWS",
        "RELAY_KAFKA_ACKS",
        "RELAY_RETENTION_DAY",
        "RELAY_ADMIN_TOKEN",
        "RELAY_FROZEN_AFTER_SECONDS",
    ]
    assert (settings.batch_timeout_seconds, settings.admin_bind.host) == (20.0, "127.0.0.1")


# The examination ----------------------------------------------------------------------------------


async def test_one_check_cannot_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    async def breaks(_: Patient) -> Finding:
        raise KeyError("whsec_abcdef")

    async def hangs(_: Patient) -> Finding:
        await asyncio.Event().wait()
        return ok("never")

    async def works(_: Patient) -> Finding:
        return ok("fine")

    monkeypatch.setattr(examination, "CHECK_SECONDS", 0.01)
    checks = [
        Check("a.breaks", breaks),
        Check("a.needs", works, ("a.breaks",)),
        Check("a.hangs", hangs),
        Check("a.works", works),
    ]
    results = await examination.examine(Patient(Settings()), checks)
    assert [(each.name, each.verdict) for each in results] == [
        ("a.breaks", "failed"),
        ("a.needs", "skipped"),
        ("a.hangs", "failed"),
        ("a.works", "ok"),
    ]
    assert "KeyError" in results[0].reason
    assert "abcdef" not in results[0].reason
    assert results[2].reason == "no answer in time"


def test_needs_are_names_of_earlier_checks() -> None:
    seen: set[str] = set()
    for check in examination.CHECKS:
        assert seen.issuperset(check.needs), check.name
        assert check.name not in seen
        seen.add(check.name)


def test_the_worst_counts() -> None:
    def of(*verdicts: finding.Verdict) -> list[Result]:
        return [Result("x", verdict, "") for verdict in verdicts]

    assert overall(of("ok", "skipped")) == "ok"
    assert overall(of("ok", "warning", "skipped")) == "warning"
    assert overall(of("warning", "failed")) == "failed"
    assert overall(of("skipped")) == "ok"


def test_words_for_people() -> None:
    assert finding.listed(["a", "b"]) == "a, b"
    assert finding.listed([str(n) for n in range(8)]) == "0, 1, 2, 3, 4 and 3 more"
    assert [finding.size(n) for n in (12, 2048, 1_048_588, 2**31)] == [
        "12 bytes",
        "2 KiB",
        "1 MiB",
        "2 GiB",
    ]
    assert [finding.span(n) for n in (0.5, 90, 7200, 200_000)] == [
        "0.5 seconds",
        "90 seconds",
        "2 hours",
        "2 days",
    ]
