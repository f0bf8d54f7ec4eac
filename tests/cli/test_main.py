"""The frame of the command line: settings, errors, exit codes, start."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import click
import pytest
from click.testing import CliRunner
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from relay import app, logs
from relay.cli import source_settings
from relay.cli.main import main
from relay.settings import envfile, load
from relay.store import schema, sources
from tests.cli.conftest import COMMAND, Receive, Relay, environment, event, invoke, output, process
from tests.support.processes import eventually, waits


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is no group, with its words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


ALL = dict(commands(main))


def unused_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


# --- help and start -------------------------------------------------------------------------


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_explains_itself_and_speaks_json(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*words, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert ALL[words].help


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    result = CliRunner().invoke(main, ["--version"])
    assert result.stdout == f"relay, version {version('relay')}\n"


async def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from relay.cli.main import main; main(['--help'], standalone_mode=False);"
        "print(sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    stdout, _ = await started.communicate()
    loaded = stdout.decode().splitlines()[-1]
    for heavy in ("sqlalchemy", "asyncpg", "litestar", "confluent_kafka", "cryptography", "rich"):
        assert f"'{heavy}'" not in loaded


async def test_a_shell_can_complete() -> None:
    environ = {**os.environ, "_RELAY_COMPLETE": "bash_complete", "COMP_WORDS": "relay sou",
               "COMP_CWORD": "1"}  # fmt: skip
    started = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("relay"), env=environ, stdout=asyncio.subprocess.PIPE
    )
    stdout, _ = await started.communicate()
    assert stdout == b"plain,source\n"


@pytest.mark.parametrize(
    "args", [["nonsense"], ["source", "list", "--nonsense"], ["source", "show"]]
)
def test_a_usage_error_exits_with_2(args: list[str]) -> None:
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 2
    assert result.stdout == ""


# --- where settings come from ---------------------------------------------------------------


async def test_without_a_database_the_fix_is_named() -> None:
    result = await invoke("source", "list", environ={}, exits=2)
    assert result.stderr.startswith("relay: RELAY_DATABASE_URL is not set: ")
    assert result.stderr.count("\n") == 1


async def test_what_relay_dev_left_is_used(database_url: str, tmp_path: Path) -> None:
    (tmp_path / ".relay").mkdir()
    envfile.write(tmp_path / ".relay" / "relay.env", environment(database_url))
    assert output(await invoke("source", "list", "--json", environ={})) == []
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".relay").rename(tmp_path / "elsewhere" / "data")
    await invoke("source", "list", environ={}, exits=2)
    args = ("source", "list", "--json", "--data-dir", "elsewhere/data")
    assert output(await invoke(*args, environ={})) == []


async def test_the_environment_wins_over_what_relay_dev_left(
    database_url: str, tmp_path: Path
) -> None:
    left = environment(database_url, RELAY_PUBLIC_URL="https://left.example.com")
    (tmp_path / ".relay").mkdir()
    envfile.write(tmp_path / ".relay" / "relay.env", left)
    environ = {"RELAY_PUBLIC_URL": "https://set.example.com"}
    made = await invoke("source", "create", "acme", "--insecure", "--json", environ=environ)
    assert output(made)["webhook_url"].startswith("https://set.example.com/")


async def test_a_database_in_the_environment_hides_the_file(tmp_path: Path) -> None:
    (tmp_path / ".relay").mkdir()
    (tmp_path / ".relay" / "relay.env").write_text("not even read", encoding="utf-8")
    environ = environment(f"postgresql://u@127.0.0.1:{unused_port()}/d")
    result = await invoke("source", "list", environ=environ, exits=1)
    assert "check RELAY_DATABASE_URL" in result.stderr


async def test_a_data_dir_without_its_file_is_an_error(tmp_path: Path) -> None:
    result = await invoke("source", "list", "--data-dir", str(tmp_path), environ={}, exits=2)
    assert "--data-dir: there is no " in result.stderr


async def test_a_stale_file_asks_whether_relay_dev_runs(tmp_path: Path) -> None:
    (tmp_path / ".relay").mkdir()
    gone = environment(f"postgresql://u:hunter22@127.0.0.1:{unused_port()}/d")
    envfile.write(tmp_path / ".relay" / "relay.env", gone)
    result = await invoke("status", environ={}, exits=1)
    assert ".relay/relay.env (is `relay dev` running?)" in result.stderr
    assert "hunter22" not in result.output


async def test_serve_never_reads_what_relay_dev_left(database_url: str, tmp_path: Path) -> None:
    (tmp_path / ".relay").mkdir()
    envfile.write(tmp_path / ".relay" / "relay.env", environment(database_url))
    code, stdout, stderr = await process("serve", environ={}, cwd=tmp_path)
    assert (code, stdout) == (2, b"")
    assert b"RELAY_DATABASE_URL is not set" in stderr


@pytest.mark.parametrize(
    "words",
    [w for w in ALL if w[-1] not in ("demo", "dev", "new", "doctor", "sql", "completion")],
    ids=" ".join,
)
async def test_every_command_stops_at_a_wrong_setting(words: tuple[str, ...]) -> None:
    given = {
        "--insecure": ("source", "create"), "--mode=any": ("source", "update"),
        "--error=x": ("events", "retry"), "--reason=x": ("redact",),
    }  # fmt: skip
    args = [*words, *(flag for flag, command in given.items() if command == words)]
    if words[0] in ("events", "dlq") and words[1] in ("skip", "replay", "discard"):
        args.append("--error=x")
    args += [
        "1" for param in ALL[words].params if isinstance(param, click.Argument) and param.required
    ]
    result = await invoke(*args, environ={"RELAY_TOPIC_PARTITION": "6"}, exits=2)
    assert "did you mean RELAY_TOPIC_PARTITIONS?" in result.stderr
    assert result.stdout == ""


# --- errors ---------------------------------------------------------------------------------


async def test_a_missing_schema_names_the_command(empty_database_url: str) -> None:
    environ = environment(empty_database_url, RELAY_DATABASE_URL=empty_database_url)
    result = await invoke("source", "list", environ=environ, exits=2)
    assert "run `relay migrate`" in result.stderr
    owner = environ | {"RELAY_DATABASE_URL": empty_database_url}
    migrated = await invoke("migrate", "--json", environ=owner)
    assert output(migrated) == {
        "revision": schema.BUILD_REVISION, "build_revision": schema.BUILD_REVISION,
        "usable": True, "reason": None,
    }  # fmt: skip
    await invoke("migrate", environ=owner)
    assert output(await invoke("source", "list", "--json", environ=environ)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": "/no_such_database"}, "PostgreSQL refuses the connection"),
        ({"netloc": "nobody:hunter22@{host}"}, "PostgreSQL refuses the connection"),
        ({"netloc": "relay:hunter22@127.0.0.1:{port}"}, "PostgreSQL is away"),
        ({"netloc": "relay:hunter22@no-such-host.invalid"}, "PostgreSQL is away"),
    ],
)
async def test_a_database_that_cannot_be_reached_is_one_line(
    direct_url: str, change: dict[str, str], said: str
) -> None:
    parts = urlsplit(direct_url)
    host = parts.netloc.rpartition("@")[2]
    change = {k: v.format(host=host, port=unused_port()) for k, v in change.items()}
    url = urlunsplit(parts._replace(**change))
    for args in (("source", "list"), ("migrate",)):
        result = await invoke(*args, environ=environment(url), exits=1)
        assert said in result.stderr
        assert "check RELAY_DATABASE_URL" in result.stderr
        assert result.stderr.count("\n") == 1
        assert "hunter22" not in result.output


async def test_an_unexpected_error_is_one_line_and_a_traceback_for_who_wants_it(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_connection: object) -> None:
        raise ZeroDivisionError("whsec_canary \x1b[31m")

    monkeypatch.setattr(sources, "list_all", fail)
    result = await relay("source", "list", exits=1)
    assert result.stderr == (
        "relay: unexpected ZeroDivisionError: whsec_(hidden) \\x1b[31m"
        " (RELAY_LOG_LEVEL=debug shows where)\n"
    )
    result = await relay("source", "list", exits=1, RELAY_LOG_LEVEL="debug")
    assert "Traceback (most recent call last)" in result.stderr
    assert "canary" not in result.stderr
    assert "\x1b" not in result.stderr


async def test_a_role_that_may_not_is_told_so(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(connection: AsyncConnection) -> None:
        raising = "DO $$ BEGIN RAISE insufficient_privilege USING MESSAGE = 'denied: \x1b'; END $$"
        await connection.execute(text(raising))

    monkeypatch.setattr(sources, "list_all", fail)
    result = await relay("source", "list", exits=1)
    assert result.stderr == "relay: the role of RELAY_DATABASE_URL may not do this: denied: \\x1b\n"


async def test_a_reader_that_leaves_early_is_no_error(
    database_url: str, relay: Relay, receive: Receive, tmp_path: Path
) -> None:
    await relay("source", "create", "acme", "--insecure")
    await receive("acme", *(event(f"evt_{n}", note="x" * 1000) for n in range(200)))
    args = ("events", "list", "--limit", "1000", "--json")
    shell = "exec 3>&1; { " + " ".join([*COMMAND, *args]) + " 2>errors; } | head -c 10"
    started = await asyncio.create_subprocess_exec(
        "sh", "-c", shell, env=environment(database_url), cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await started.communicate()
    assert (tmp_path / "errors").read_text(encoding="utf-8") == ""


# --- asking ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "code", "left"), [(b"y\n", 0, 0), (b"n\n", 1, 1)])
async def test_at_a_terminal_it_asks(
    database_url: str, relay: Relay, receive: Receive, answer: bytes, code: int, left: int
) -> None:
    await relay("source", "create", "acme", "--insecure")
    await receive("acme", event("evt_1"))
    terminal, end = pty.openpty()
    started = await asyncio.create_subprocess_exec(
        *COMMAND, "events", "skip", "--source", "acme", env=environment(database_url), stdin=end,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    os.close(end)
    os.write(terminal, answer)
    _, stderr = await started.communicate()
    os.close(terminal)
    assert b"skip 1 waiting events? [y/N]" in stderr
    assert started.returncode == code
    pending = output(await relay("events", "list", "--state", "pending", "--json"))
    assert len(pending) == left


async def test_ctrl_c_is_an_answer(database_url: str, relay: Relay, receive: Receive) -> None:
    await relay("source", "create", "acme", "--insecure")
    await receive("acme", event("evt_1"))
    terminal, end = pty.openpty()
    started = await asyncio.create_subprocess_exec(
        *COMMAND, "events", "skip", "--source", "acme", env=environment(database_url), stdin=end,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    os.close(end)
    assert started.stderr is not None
    await started.stderr.readuntil(b"[y/N]")
    # Between the question and the read, Python would note the signal and then read all the same.
    await eventually(lambda: waits(started.pid))
    started.send_signal(signal.SIGINT)
    # One is enough. Nobody types anything: without the signal it would wait for ever.
    await asyncio.wait_for(started.wait(), 60)
    os.close(terminal)
    assert started.returncode == 1
    assert len(output(await relay("events", "list", "--state", "pending", "--json"))) == 1


# --- keys, serve, demo, dev -----------------------------------------------------------------


async def test_a_new_encryption_key_needs_no_settings() -> None:
    result = await invoke("encryption-key", "new", environ={"RELAY_NONSENSE": "1"})
    (key,) = load({"RELAY_ENCRYPTION_KEYS": result.stdout}).encryption_keys
    assert result.stdout == f"{key}\n"
    assert output(await invoke("encryption-key", "new", "--json", environ={}))["encryption_key"]


@pytest.mark.parametrize(
    ("environ", "args", "said"),
    [
        ({}, (), "RELAY_DATABASE_URL is not set"),
        ({"RELAY_DATABASE_URL": "postgresql:///d"}, (), "RELAY_KAFKA_BOOTSTRAP_SERVERS is not set"),
        ({"RELAY_DATABASE_URL": "postgresql:///d"}, ("--roles", "reciever"), "reciever"),
        ({"RELAY_DATABASE_URL": "postgresql:///d"}, ("--roles", ""), "--roles"),
        ({"RELAY_ADMIN_BIND": "0.0.0.0:1"}, (), "RELAY_ADMIN_TOKEN is required"),
        ({"RELAY_KAFKA_ACKS": "1"}, (), "RELAY_KAFKA_ACKS cannot be set"),
    ],
)
async def test_serve_refuses_before_it_starts(
    environ: dict[str, str], args: tuple[str, ...], said: str
) -> None:
    code, stdout, stderr = await process("serve", *args, environ=environ)
    assert (code, stdout) == (2, b"")
    assert said in stderr.decode()
    assert stderr.count(b"\n") == 1


async def test_serve_runs_a_role_until_it_is_told_to_stop(
    database_url: str, direct_url: str
) -> None:
    environ = environment(
        database_url,
        RELAY_BIND=f"127.0.0.1:{unused_port()}",
        RELAY_ADMIN_BIND=f"127.0.0.1:{unused_port()}",
    )
    started = await asyncio.create_subprocess_exec(
        *COMMAND, "serve", "--roles", "receiver", "--json", env=environ,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert started.stderr is not None
    lines = [await asyncio.wait_for(started.stderr.readline(), 30)]
    while b"app.started" not in lines[-1]:
        assert lines[-1], b"".join(lines)
        lines.append(await asyncio.wait_for(started.stderr.readline(), 30))

    async def names() -> list[str]:
        status = await invoke("status", "--json", environ=environment(direct_url))
        return [each["name"] for each in output(status)["services"]]

    # It connects by itself, after it has said that it has started.
    await eventually(names)
    assert await names() == ["relay-receiver"]
    started.send_signal(signal.SIGTERM)
    stdout, stderr = await started.communicate()
    assert started.returncode == 0, stderr
    assert stdout == b""
    for line in (b"".join(lines) + stderr).decode().splitlines():
        assert line.startswith("{"), "logs are JSON"


async def test_a_crash_of_serve_is_told_by_the_log(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("whsec_canary")

    monkeypatch.setattr(app, "serve", fail)
    monkeypatch.setattr(logs, "log_uncaught", lambda: None)  # it is for a process of its own
    environ = environment(database_url)
    result = await invoke("serve", "--roles", "receiver", "--json", environ=environ, exits=1)
    line = json.loads(result.stderr)
    assert line["event"] == "serve.crashed"
    assert "ZeroDivisionError: whsec_(hidden)" in line["exception"]
    assert result.stdout == ""


def test_no_flag_of_a_source_is_forgotten() -> None:
    from relay.store.sources import SETTINGS

    assert source_settings._SETTINGS.keys() == set(SETTINGS) - {"name"}
