"""`relay doctor`: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from pathlib import Path

from relay.doctor import CHECKS
from relay.store.engine import Database
from tests.cli.conftest import COMMAND, KEY, Relay, environment, invoke, output

DOCS = Path(__file__).resolve().parents[2] / "docs" / "doctor.md"


async def test_all_is_well(relay: Relay, kafka: str, database_url: str, topic_prefix: str) -> None:
    await relay(
        "source", "create", "acme", "--signing-secret", "whsec_a", "--topic-prefix", topic_prefix
    )
    service = Database(database_url, application_name="relay-forwarder-receiver")
    async with service.begin():
        result = await relay("doctor", RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka)
        found = output(await relay("doctor", "--json", RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka))
    await service.close()
    verdicts = {each["name"]: each["verdict"] for each in found["checks"]}
    assert {name for name, each in verdicts.items() if each not in ("ok", "skipped")} == set()
    assert found["verdict"] == "ok"
    assert set(verdicts) == {check.name for check in CHECKS}
    assert "0 failed, 0 warnings" in result.stdout
    assert "\nKafka\n" in result.stdout


async def test_the_form_for_machines(relay: Relay) -> None:
    found = output(await relay("doctor", "--json"))
    assert set(found) == {"verdict", "checks", "configuration"}
    assert all(set(each) == {"name", "verdict", "reason", "fix"} for each in found["checks"])
    assert found["configuration"]["RELAY_BATCH_ROWS"] == "1000"


async def test_secrets_stay_hidden(relay: Relay, database_url: str) -> None:
    secrets = {
        "RELAY_ADMIN_TOKEN": "token-of-a-test",
        "RELAY_ADMIN_VIEWER_TOKEN": "viewer-of-a-test",
        "RELAY_KAFKA_SASL_PASSWORD": "word-of-a-test",
    }
    for flags in ((), ("--json",)):
        text = (await relay("doctor", *flags, **secrets)).output
        assert "RELAY_KAFKA_SASL_PASSWORD" in text
        for secret in (*secrets.values(), KEY, database_url):
            assert secret not in text
        assert "(hidden)" in text


async def test_what_fails_ends_it_with_1(relay: Relay) -> None:
    await relay("source", "create", "acme", "--signing-secret", "whsec_a")
    found = await relay("doctor", exits=1, RELAY_ENCRYPTION_KEYS="x" * 3)
    assert "RELAY_ENCRYPTION_KEYS has no valid key in place 1" in found.stdout
    assert "only a key opens the secrets of acme" in found.stdout
    assert "\nfailed   settings.valid\nfailed   sources.secrets\n" in found.stdout
    assert "x" * 3 not in re.findall(r"\w+", found.output)


async def test_warnings_end_it_with_1_on_demand(relay: Relay) -> None:
    await relay("doctor")
    await relay("doctor", "--strict", exits=1)
    await relay("doctor", "--nonsense", exits=2)


async def test_without_any_setting() -> None:
    result = await invoke("doctor", environ={}, exits=1)
    assert "RELAY_DATABASE_URL is not set" in result.stdout
    assert "checks" in result.stdout
    assert "needs postgres.reachable" in result.stdout
    found = output(await invoke("doctor", "--json", environ={}, exits=1))
    assert found["verdict"] == "failed"


def test_lines_fit_the_terminal(tmp_path: Path, database_url: str) -> None:
    ours, theirs = pty.openpty()
    environ = {**os.environ, **environment(database_url), "COLUMNS": "70", "TERM": "xterm"}
    with subprocess.Popen(
        [*COMMAND, "doctor"], stdin=theirs, stdout=theirs, stderr=theirs, env=environ, cwd=tmp_path
    ) as started:
        os.close(theirs)
        written = b""
        try:
            while block := os.read(ours, 65536):
                written += block
        except OSError:
            pass  # how a terminal says that the other end is closed
    os.close(ours)
    assert started.returncode == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", written.decode())
    checks = text.replace("\r", "").partition("\nSettings\n")[2].splitlines()
    assert checks
    # Words that are longer than the rest of a line stay whole: they may be copied.
    assert all(len(line) <= 70 or " " not in line.strip() for line in checks)
    assert "\x1b[33m" in written.decode()


def test_the_documentation_tells_of_every_check() -> None:
    told = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", DOCS.read_text(), re.MULTILINE)
    assert told == [check.name for check in CHECKS]


async def test_a_word_for_every_group(relay: Relay) -> None:
    from relay.cli.doctor import GROUPS

    found = json.loads((await relay("doctor", "--json")).stdout)
    assert {each["name"].partition(".")[0] for each in found["checks"]} == set(GROUPS)
