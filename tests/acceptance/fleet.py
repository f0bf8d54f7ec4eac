"""Processes of `relay serve`, started, killed and asked as an operator would."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from relay.dev.process import Process
from tests.support.logins import as_login, login_of
from tests.support.processes import eventually

RELAY = Path(sys.executable).with_name("relay")

Program = Sequence[str | Path]
"""How a build is started; its arguments follow."""
THIS_BUILD: Program = (RELAY,)

# A SIGTERM leaves 25 s; whoever needs longer than that and some for a busy machine is killed,
# and its exit status tells.
_STOP_WITH = ((signal.SIGTERM, 40.0), (signal.SIGKILL, 5.0))
_START_SECONDS = 90.0


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer, read whole."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Serving:
    """One `relay serve`. It chooses its ports itself, and its log tells which."""

    def __init__(
        self,
        roles: str,
        environment: Mapping[str, str],
        log: Path,
        *,
        relay: Program = THIS_BUILD,
    ) -> None:
        self.roles = roles
        self.log = log
        command: list[str | Path] = [*relay, "serve", "--roles", roles]
        if relay == (RELAY,):  # a build of before the roles has more to read than they allow
            environment = _as(login_of(roles), environment)
        with log.open("ab") as stream:
            self._process = Process(
                command, log=stream, environment=environment, stop_with=_STOP_WITH
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs; 128 + signal when a signal ended it."""
        return self._process.exit_status

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Its log lines so far, or those of one event.

        Whatever the process wrote is in its log, and all of it has to be JSON.
        """
        # The last line may still be being written.
        whole = self.log.read_text("utf-8").rpartition("\n")[0]
        found = [_parse(line) for line in whole.splitlines()]
        return [line for line in found if event in (None, line["event"])]

    async def started(self) -> Serving:
        """Wait until it listens."""
        await eventually(self._is_up, deadline=_START_SECONDS)
        return self

    async def ready(self) -> Serving:
        """Wait until `/readyz` says so."""
        await self.started()

        async def is_ready() -> bool:
            return (await get(self.admin_port, "/readyz")).status == 200

        await eventually(is_ready, deadline=_START_SECONDS)
        return self

    def _is_up(self) -> bool:
        assert self.exit_status is None, f"it ended:\n{self.log.read_text()[-4000:]}"
        return bool(self.lines("app.started"))

    @cached_property
    def port(self) -> int:
        """Where webhooks are received."""
        return int(self.lines("receiver.started")[0]["port"])

    @cached_property
    def admin_port(self) -> int:
        return int(self.lines("admin.started")[0]["port"])

    async def kill(self) -> None:
        """SIGKILL, as in a crash."""
        await asyncio.to_thread(self._process.kill)

    def terminate(self) -> None:
        """SIGTERM, without waiting for anything."""
        os.kill(self.pid, signal.SIGTERM)

    async def stop(self) -> int | None:
        """SIGTERM; returns the exit status, 137 when it had to be killed."""
        await asyncio.to_thread(self._process.stop)
        return self.exit_status


def _parse(line: str) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise AssertionError(f"a line of the log is not JSON: {line}") from error
    return parsed


def environment(**settings: str) -> dict[str, str]:
    """What a process of ours gets: everything but the settings of whoever runs the tests."""
    inherited = {name: value for name, value in os.environ.items() if name[:6] != "RELAY_"}
    chosen = {"RELAY_BIND": "127.0.0.1:0", "RELAY_ADMIN_BIND": "127.0.0.1:0"}
    return inherited | chosen | settings


def _as(login: str, environment: Mapping[str, str]) -> dict[str, str]:
    """With a login that may do no more than it must, in the place of the database's owner."""
    url = environment.get("RELAY_DATABASE_URL")
    login_url = {} if url is None else {"RELAY_DATABASE_URL": as_login(url, login)}
    return {**environment, **login_url}


async def command(
    *arguments: str, environment: Mapping[str, str], relay: Program = THIS_BUILD
) -> tuple[int, str, str]:
    """Run `relay …`; its exit status, standard output and standard error."""
    if arguments[0] not in ("migrate", "housekeeping"):  # these take the owner's rights
        environment = _as("admin", environment)
    process = await asyncio.create_subprocess_exec(
        *relay,
        *arguments,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def create_source(name: str, *flags: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """What `relay source create --json` tells: id, api_key and so on."""
    status, output, errors = await command(
        "source", "create", name, *flags, "--json", environment=environment
    )
    assert status == 0, errors
    made: dict[str, Any] = json.loads(output)
    return made


async def get(port: int, path: str) -> Answer:
    """One GET on a connection of its own; status 0 when nobody listens."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return Answer(0, b"")
    try:
        head = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        writer.write(head.encode())
        return await read_answer(reader)
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """The next answer of a connection. Raises EOFError when the connection ends before it."""
    head = await reader.readuntil(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Answer(int(status_line.split()[1]), body)
