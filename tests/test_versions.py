"""docs/versions.md says what `.ci/run` does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from relay.dev.postgres import installations
from relay.store.schema import MIN_SERVER_VERSION
from tests.support.kafka import POM

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / ".ci" / "run"
DOCS = (ROOT / "docs" / "versions.md").read_text()
TABLE = re.findall(r"^\| (tests: .*?) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", DOCS, re.MULTILINE)


@pytest.mark.skipif(not RUN.exists(), reason="an sdist has no .ci/run")
def test_each_run_of_the_tests_has_its_line() -> None:
    stages = re.findall(r"^stage '(tests: .*?)'", RUN.read_text(), re.MULTILINE)
    assert stages
    assert [run for run, *_ in TABLE] == stages


def test_the_columns_say_what_the_name_says() -> None:
    for run, python, postgres, pooler, broker in TABLE:
        assert f"Python {python}," in run
        assert f"PostgreSQL {postgres.partition(',')[0]}" in run
        assert ("PgBouncer" in run) == (pooler != "-")
        assert ("embedded broker" if broker == "embedded" else "Apache Kafka") in run


def test_every_python_that_we_name_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {each.rpartition(" ")[2] for each in project["classifiers"] if "Python :: 3." in each}
    assert {python for _, python, *_ in TABLE} == named
    assert project["requires-python"] == f">={min(named)}"


def test_the_oldest_and_the_newest_server_are_tested() -> None:
    tested = {int(postgres.partition(",")[0]) for _, _, postgres, *_ in TABLE}
    assert min(tested) == MIN_SERVER_VERSION // 10_000
    assert max(tested) == max(each.major for each in installations())


def test_the_version_of_apache_kafka() -> None:
    version = str(ElementTree.parse(POM).getroot().findtext("{*}version"))
    assert f"Apache Kafka {version.rpartition('.')[0]}" in DOCS
