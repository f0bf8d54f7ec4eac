"""Whatever calls somebody has a runbook: every alert, and every finding that wants a hand."""

from __future__ import annotations

import re

import asyncpg
import pytest

from relay.doctor.examination import CHECKS
from tests.docs import pages

ALERTS = (pages.DOCS.parent / "deploy/prometheus/alerts.yml").read_text("utf-8")
# They tell how it is, and are never anything but ok.
TELL_ONLY = {"postgres.isolation", "postgres.pooler"}


def sections(page: str) -> dict[str, str]:
    """The text of each section of a page, by its title."""
    parts = re.split(r"^## (.+)$", pages.read(f"runbooks/{page}.md"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("group", ["receiving", "forwarding", "database"])
def test_every_alert_has_one(group: str) -> None:
    rules = ALERTS.partition(f"- name: relay-{group}\n")[2].partition("\n  - name: ")[0]
    alerts = re.findall(r"- alert: (\w+)\n.*?severity: (page|ticket)}", rules, re.DOTALL)
    told = sections(group)
    assert list(told) == [name for name, _ in alerts]
    for name, severity in alerts:
        assert told[name].lstrip().startswith(f"**{severity.capitalize()}.** "), name
        assert "**Do.**" in told[name] or "| do |" in told[name], name


def test_there_are_no_other_alerts() -> None:
    assert re.findall(r"^  - name: (.+)$", ALERTS, re.MULTILINE) == [
        "relay-receiving",
        "relay-forwarding",
        "relay-database",
    ]


def test_every_finding_has_one() -> None:
    assert list(sections("doctor")) == [
        check.name for check in CHECKS if check.name not in TELL_ONLY
    ]


async def test_their_sql_runs(direct_url: str) -> None:
    texts = [
        block.text
        for page in ("receiving", "forwarding", "database", "doctor")
        for block in pages.blocks(pages.read(f"runbooks/{page}.md"))
        if block.language == "sql"
    ]
    assert len(texts) >= 6
    connection = await asyncpg.connect(direct_url)
    try:
        for text in texts:
            await connection.execute(text)
    finally:
        await connection.close()
