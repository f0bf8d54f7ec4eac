"""docs/metrics.md, the alerts and a live page tell of the same metrics."""

from __future__ import annotations

import re
from pathlib import Path

from relay.receiver import ANSWERS, answers
from tests.metrics.scrape import Page
from tests.metrics.world import World, all_roles, send_known_traffic

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/metrics.md").read_text("utf-8")
ALERTS = ROOT / "deploy/prometheus/alerts.yml"

_ROW = re.compile(
    r"^\| `(?P<name>\w+)` \| (?P<type>counter|gauge|histogram) \| (?P<labels>[^|]*)\|"
    r" (?P<meaning>[^|]+) \| (?P<worry>[^|]*)\|$",
    re.MULTILINE,
)
_METRIC = re.compile(r"\b(?:relay|process)_[a-z0-9_]+\b")


def documented() -> dict[str, tuple[str, set[str]]]:
    """Type and labels by name."""
    rows = list(_ROW.finditer(DOCUMENT))
    assert len({row["name"] for row in rows}) == len(rows), "a metric is explained twice"
    return {row["name"]: (row["type"], set(re.findall(r"`(\w+)`", row["labels"]))) for row in rows}


async def _complete(world: World) -> Page:
    """A page on which every family with labels has samples."""
    await send_known_traffic(world)
    return await world.scrape_until(
        lambda page: (
            bool(page.all("relay_source_oldest_pending_seconds", "source"))
            and bool(page.all("relay_kafka_broker_round_trip_seconds", "broker"))
        )
    )


async def test_the_page_and_its_explanation_are_of_the_same_metrics(
    database_url: str, kafka: str, topic_prefix: str
) -> None:
    async with all_roles(database_url, kafka, topic_prefix) as world:
        page = await _complete(world)
    told = documented()
    assert page.families.keys() == told.keys()
    assert {n: f.type for n, f in page.families.items()} == {n: of[0] for n, of in told.items()}
    # Of these nothing came up in a minute: no code is known beforehand, and a pooler hides it.
    unlabelled = {"relay_forwarder_retries_total"} & page.empty()
    for name in told.keys() - unlabelled:
        assert page.labels(name) - {"le"} == told[name][1] or name in page.empty(), name
    assert page.empty() - unlabelled <= {
        "relay_queue_lanes_resting",
        "relay_database_oldest_transaction_seconds",
    }


def test_every_name_has_the_unit_that_it_is_in() -> None:
    for name, (kind, _) in documented().items():
        assert name.endswith("_total") is (kind == "counter"), name
        assert not re.search(r"_(ms|millis|minutes|days|kb|kilobytes|percent)\b", name), name


def test_every_answer_counts_from_zero() -> None:
    made = [each for each in vars(answers).values() if isinstance(each, answers.Answer)]
    assert {(each.status, each.word) for each in made} <= set(ANSWERS)
    assert len(set(ANSWERS)) == len(ANSWERS)


def test_every_result_is_explained() -> None:
    after = DOCUMENT.partition("\nResults: ")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", after)) == {word for _, word in ANSWERS}
    assert set(re.findall(r"\((\d+)\)", after)) == {str(status) for status, _ in ANSWERS}


def test_alerts_are_about_metrics_that_exist() -> None:
    rules = ALERTS.read_text("utf-8")
    known = documented()
    samples = {f"{n}_{end}" for n, of in known.items() if of[0] == "histogram" for end in _ENDS}
    for file in (ALERTS, ALERTS.with_name("alerts_test.yml")):
        for name in _METRIC.findall(file.read_text("utf-8")):
            assert name in known or name in samples, f"{file.name}: {name}"
    named = re.findall(r"- alert: (\w+)\n", rules)
    severities = re.findall(r"severity: (page|ticket)}", rules)
    explained = re.findall(r"^\| `(Relay\w+)` \| (page|ticket) \|", DOCUMENT, re.MULTILINE)
    assert len(named) == len(set(named)) == len(severities)
    assert dict(explained) == dict(zip(named, severities, strict=True))


_ENDS = ("bucket", "sum", "count")
