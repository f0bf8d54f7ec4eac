"""deploy/systemd: what systemd says to the units, and relay to their settings."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from relay.settings import envfile
from tests.deploy.configured import check_command, load_with_secrets
from tests.deploy.tools import DEPLOY, program, run

UNITS = DEPLOY / "systemd"
COMMON = UNITS / "relay-.service.d" / "10-common.conf"
RELAY = Path(sys.executable).with_name("relay")
# The instance that the comment in a unit's file gives as an example.
INSTANCES = {"relay-receiver@.service": "8080", "relay-forwarder@.service": "18181"}
NAMES = sorted(path.name for path in UNITS.glob("*.service"))


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units in a directory of their own, with the program where it is here."""
    directory = tmp_path / "system"
    shutil.copytree(UNITS, directory)
    for path in directory.glob("*.service"):
        text = path.read_text()
        assert "/opt/relay/bin/relay" in text
        path.write_text(text.replace("/opt/relay/bin/relay", str(RELAY)))
        if path.name in INSTANCES:
            shutil.copy(path, directory / _instance(path.name))
    return directory


def _instance(name: str) -> str:
    return name.replace("@.", f"@{INSTANCES[name]}.") if name in INSTANCES else name


def test_systemd_understands_every_line(installed: Path) -> None:
    analyze = program("systemd-analyze", source="Debian: systemd")
    paths = [installed / _instance(name) for name in NAMES]
    paths += installed.glob("*.timer")
    # Warnings, of unknown lines for example, are no failure to it: so nothing may be said at all.
    assert _both(analyze, "verify", "--man=no", *paths) == ""


def _both(*command: str | Path) -> str:
    return run("sh", "-c", 'exec "$@" 2>&1', "sh", *map(str, command))


@pytest.mark.parametrize("name", NAMES)
def test_units_are_confined(installed: Path, name: str) -> None:
    analyze = program("systemd-analyze", source="Debian: systemd")
    # Tenths of its points, of which a unit without any measure has 9.6.
    run(analyze, "security", "--offline=true", "--threshold=15", installed / _instance(name))


@pytest.mark.parametrize("name", NAMES)
def test_relay_takes_its_settings_and_command(name: str, tmp_path: Path) -> None:
    lines = _service_section(COMMON, UNITS / name)
    variables = envfile.read(UNITS / "relay.env.example")
    for line in lines["Environment"]:
        for word in shlex.split(line):
            key, _, value = word.partition("=")
            variables[key] = value.replace("%i", INSTANCES.get(name, "")).replace("%d", "/creds")
    credentials = {f"/creds/{line.partition(':')[0]}" for line in lines["LoadCredential"]}
    (start,) = lines["ExecStart"]

    settings = load_with_secrets(variables, credentials, tmp_path)
    check_command(shlex.split(start)[1:], settings)

    if "serve" in start:
        (seconds,) = lines["TimeoutStopSec"]
        assert float(seconds) > settings.drain_seconds
        assert lines["Restart"] == ["always"]


def _service_section(*paths: Path) -> dict[str, list[str]]:
    """The values of each name in [Service], those of all files together."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        section = ""
        for line in path.read_text().splitlines():
            if line.startswith("["):
                section = line
            elif section == "[Service]" and line and not line.startswith("#"):
                name, _, value = line.partition("=")
                found[name].append(value)
    return found
