"""The command line in this process, on a real database."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
import structlog
from click.testing import CliRunner, Result

from relay.cli.main import main
from relay.core.event import peek
from relay.store import inbox, sources
from relay.store.engine import Database
from relay.store.sealing import new_key
from tests.support.logins import as_login

KEY = new_key()
COMMAND = (sys.executable, "-m", "relay")


class Relay(Protocol):
    """Runs one command; fails the test unless it exits with ``exits``."""

    async def __call__(
        self, *args: str, exits: int = 0, stdin: str | None = None, **environ: str
    ) -> Result: ...


class Receive(Protocol):
    """Stores events in the inbox as the receiver does; returns their inbox ids."""

    async def __call__(
        self, source: str, *bodies: Mapping[str, Any], dead: str | None = None
    ) -> list[int]: ...


def environment(database_url: str, **more: str) -> dict[str, str]:
    """What a user would have set."""
    return {
        "RELAY_DATABASE_URL": as_login(database_url, "admin"),
        "RELAY_ENCRYPTION_KEYS": KEY,
        "RELAY_PUBLIC_URL": "https://relay.example.com",
        **more,
    }


async def invoke(
    *args: str, environ: Mapping[str, str], exits: int = 0, stdin: str | None = None
) -> Result:
    """Run a command in a thread, because it has an event loop of its own."""
    runner = CliRunner(env=dict(environ))
    result = await asyncio.to_thread(runner.invoke, main, args, input=stdin, prog_name="relay")
    assert result.exit_code == exits, f"exit code {result.exit_code}\n{result.output}"
    return result


async def process(
    *args: str, environ: Mapping[str, str], cwd: Path | None = None
) -> tuple[int, bytes, bytes]:
    """Run a command as a process of its own; returns its exit code, stdout and stderr."""
    started = await asyncio.create_subprocess_exec(
        *COMMAND,
        *args,
        env=dict(environ),
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await started.communicate()
    assert started.returncode is not None
    return started.returncode, stdout, stderr


def output(result: Result) -> Any:
    """What a command wrote with --json."""
    return json.loads(result.stdout)


def event(event_id: str, event_type: str = "customer.updated", **fields: Any) -> dict[str, Any]:
    """A small event of Stripe."""
    about = {"id": "cus_1", "object": event_type.partition(".")[0]} | fields
    return {
        "id": event_id,
        "object": "event",
        "type": event_type,
        "created": 1_780_000_000,
        "livemode": False,
        "data": {"object": about},
    }


@pytest.fixture(autouse=True)
def _logs_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the shell of the tests has set, and without a `.relay` that lies about."""
    for name in os.environ:
        if name.startswith("RELAY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def relay(database_url: str) -> Relay:
    """Runs commands on a fresh database."""

    async def run(*args: str, exits: int = 0, stdin: str | None = None, **environ: str) -> Result:
        settings = environment(database_url, **environ)
        return await invoke(*args, exits=exits, stdin=stdin, environ=settings)

    return run


@pytest.fixture
def receive(database: Database) -> Receive:
    """Puts events into the inbox."""

    async def put(source: str, *bodies: Mapping[str, Any], dead: str | None = None) -> list[int]:
        async with database.begin() as connection:
            source_id = (await sources.find(connection, source)).config.source_id
        new = []
        for each in bodies:
            body = json.dumps(each).encode()
            row = inbox.new_event(
                peek(body),
                body,
                source_id=source_id,
                origin="webhook",
                signature_header="t=1,v1=00",
            )
            if dead is not None:
                row = msgspec.structs.replace(row, dead_code=dead, dead_error=f"it is {dead}")
            new.append(row)
        async with database.driver() as pg:
            async with pg.transaction():
                assert all(await inbox.put(pg, new))
            ids = await pg.fetch(
                "SELECT inbox_id FROM relay.event_key WHERE event_id = ANY ($1) ORDER BY 1",
                [each.event_id for each in new],
            )
        return [row["inbox_id"] for row in ids]

    return put
