"""The generated pages have everything that there is, and every name on any page exists."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import click
import pytest

from relay.core.value import OWN_CHILD_NAMES, OWN_NAMES
from relay.dev import samples
from relay.settings import VARIABLES, librdkafka
from tests.docs import pages
from tests.metrics.test_documented import documented
from website import codes, commands, metrics, records, settings, views

EVERY_PAGE = sorted(pages.DOCS.rglob("*.md"))
# Of the test suite, of `relay dev`, and the beginnings of names.
NOT_SETTINGS = re.compile(r"RELAY_(TEST_\w+|KAFKA_\w*|)$")


def test_every_setting_is_explained() -> None:
    page = settings.page()
    for variable in VARIABLES:
        row = re.search(
            rf"^\| `{variable.name}` \| ([^|]+) \| [^|]* \| [^|]* \|$", page, re.MULTILINE
        )
        assert row is not None, variable.name
        assert row[1].strip(), variable.name
    assert all(f"`{name}`" in page for name in librdkafka.REFUSED)
    assert "`127.0.0.1:8080`" in page
    assert "| a whole number from 1 to 64 |" in page


def test_every_command_and_option_is_there() -> None:
    page = commands.page()
    for path, command in commands.walk():
        section = re.search(rf"^###? {path}\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
        assert section is not None, path
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in ("as_json", "data_dir"):
                assert all(flag in section[1] for flag in option.opts), (path, option.opts)
    assert "|  |" not in page


def test_every_metric_is_there_as_it_is_documented() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| .+ \|$", metrics.page(), re.MULTILINE)
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert told == documented()
    assert len(rows) == len(told)


def test_every_field_and_header_is_there() -> None:
    assert records.FIELDS.keys() == OWN_NAMES
    assert records.CHILD_FIELDS.keys() == OWN_CHILD_NAMES
    made = [record for _, of_event in records.examples() for record in of_event]
    dead = {name for r in made if r.topic == "dead_letter" for name, _ in r.headers}
    alive = {name for r in made if r.topic != "dead_letter" for name, _ in r.headers}
    assert alive == records.HEADERS.keys()
    assert dead == records.DEAD_LETTER_HEADERS.keys()
    page = records.page()
    assert "null (a tombstone)" in page
    assert '"balance":-1.10' in page


def test_every_event_type_is_there() -> None:
    page = records.types_page()
    assert all(f"\n| `{known.name}` | " in page for known in samples.event_types())
    assert (
        "| `customer.subscription.deleted` | `customer` | `subscription` | its id | `d` |" in page
    )


def test_every_code_is_explained() -> None:
    assert codes.unexplained() == set()
    page = codes.page()
    for words in (codes.ANSWERED, codes.DEAD, codes.SKIPPED):
        assert all(f"| `{word}` |" in page for word in words)


async def test_every_view_and_column_is_there(direct_url: str) -> None:
    page = await views.page(direct_url)
    connection = await asyncpg.connect(direct_url)
    try:
        columns = await connection.fetch(
            "SELECT table_name, column_name FROM information_schema.columns c"
            " JOIN information_schema.tables USING (table_schema, table_name)"
            " WHERE table_schema = 'relay' AND table_type = 'VIEW'"
        )
    finally:
        await connection.close()
    assert {row["table_name"] for row in columns} >= {"events", "lag", "redactions"}
    for row in columns:
        section = page.partition(f"## relay.{row['table_name']}\n")[2].partition("\n## ")[0]
        same_as_events = "The columns are those of [relay.events]" in section
        told = re.search(rf"^\| `{row['column_name']}` \| .+ \| (.+) \|$", section, re.MULTILINE)
        assert same_as_events or (told and told[1].strip()), tuple(row)
    assert "## relay.body_text(inbox_id bigint) → text" in page


@pytest.mark.parametrize("path", EVERY_PAGE, ids=lambda path: str(path.relative_to(pages.DOCS)))
def test_names_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    known = {variable.name for variable in VARIABLES}
    named = {name.removesuffix("_FILE") for name in re.findall(r"\bRELAY_[A-Z_]*", text)}
    assert {name for name in named - known if not NOT_SETTINGS.match(name)} == set()
    paths = {path for path, _ in commands.walk()}
    groups = {path for path, command in commands.walk() if isinstance(command, click.Group)}
    for first, second in re.findall(r"`relay ([a-z][a-z-]+)(?: ([a-z][a-z-]+))?\b", text):
        assert f"relay {first}" in paths, first
        if f"relay {first}" in groups and second:
            assert f"relay {first} {second}" in paths, (first, second)
