"""`relay dev`: found by other commands, kept over restarts, and never left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from relay.core import signature
from relay.dev import dev_source, samples
from relay.dev.directory import DataDirectory
from relay.dev.process import StartError
from relay.settings import envfile
from relay.store import sources
from relay.store.engine import Database
from relay.store.sealing import Seal, new_key
from tests.support.commands import Command
from tests.support.processes import eventually
from tests.support.topics import TopicReader

FREE_PORTS = ("--port", "0", "--admin-port", "0")
FAKE_KEY = "sk_test_fake"


class Dev:
    """A running `relay dev`, with what it left in relay.env."""

    def __init__(self, command: Command, process: subprocess.Popen[str], env_file: Path) -> None:
        self.command = command
        self.process = process
        self.env_file = env_file
        self.left = envfile.read(env_file)

    def stop(self, number: int = signal.SIGTERM) -> str:
        """Send a signal, and tell what else it said; every process of it must be gone then."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=60)
        return out

    def post(self, body: bytes) -> httpx.Response:
        header = signature.sign(body, self.left["DEV_SIGNING_SECRET"], int(time.time()))
        return httpx.post(
            self.left["DEV_WEBHOOK_URL"],
            content=body,
            headers={"Stripe-Signature": header},
            trust_env=False,
        )

    async def rows(self, query: str) -> list[Any]:
        connection = await asyncpg.connect(self.left["RELAY_DATABASE_URL"])
        try:
            return list(await connection.fetch(query))
        finally:
            await connection.close()

    async def delivered(self, event_id: str) -> bool:
        found = await self.rows("SELECT event_id FROM relay.events WHERE state = 'delivered'")
        return event_id in [row["event_id"] for row in found]


@contextmanager
def relay_dev(command: Command, data_dir: Path, *args: str) -> Iterator[Dev]:
    """Started and ready; stopped at the end if it is not yet."""
    log = data_dir.with_name(f"{data_dir.name}.log")
    with log.open("a") as stderr:
        process = command.start(
            "dev", "--data-dir", str(data_dir), *(args or FREE_PORTS), stderr=stderr
        )
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line == "ready\n":
                break
        else:
            pytest.fail(f"not ready: {''.join(said)}{log.read_text()}")
        yield Dev(command, process, data_dir / "relay.env")
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """One for the tests that change nothing of it."""
    directory = tmp_path_factory.mktemp("dev")
    with relay_dev(Command(directory), directory / "data") as dev:
        yield dev


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "second terminal")


async def test_an_event_goes_all_the_way(dev: Dev) -> None:
    event = samples.sample("customer.created")
    assert dev.post(event.body).json() == {"received": True}

    await eventually(lambda: dev.delivered(event.event_id))
    reader = TopicReader(dev.left["RELAY_KAFKA_BOOTSTRAP_SERVERS"])
    records = await reader.read_topic("customer", at_least=1)
    assert event.event_id.encode() in [dict(r.headers() or [])["_event_id"] for r in records]


def test_verifies_signatures_from_the_start(dev: Dev) -> None:
    body = samples.sample("customer.updated").body
    header = signature.sign(body, "whsec_of_somebody_else", int(time.time()))
    answer = httpx.post(
        dev.left["DEV_WEBHOOK_URL"],
        content=body,
        headers={"Stripe-Signature": header},
        trust_env=False,
    )
    assert (answer.status_code, answer.json()) == (400, {"error": "signature_wrong"})


def test_other_commands_find_it(dev: Dev, command: Command) -> None:
    elsewhere = ("--json", "--data-dir", str(dev.env_file.parent))
    (source,) = json.loads(command.run("source", "list", *elsewhere).stdout)
    assert source["name"] == "dev"
    assert source["id"] in dev.left["DEV_WEBHOOK_URL"]
    assert source["warnings"] == []
    assert json.loads(command.run("status", *elsewhere).stdout)["warnings"] == []


def test_other_commands_find_it_in_its_directory(tmp_path: Path) -> None:
    command = Command(tmp_path)
    with relay_dev(command, tmp_path / ".relay"):
        (source,) = json.loads(command.run("source", "list", "--json").stdout)
    assert source["name"] == "dev"


def test_keys_are_for_the_owner_only(dev: Dev) -> None:
    assert stat.S_IMODE(dev.env_file.stat().st_mode) == 0o600
    assert (dev.env_file.parent / ".gitignore").read_text() == "*\n"
    shown = subprocess.run(
        ["sh", "-c", f'. "{dev.env_file}"; echo "$DEV_WEBHOOK_URL"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == dev.left["DEV_WEBHOOK_URL"]


async def test_a_secret_of_the_stripe_cli_is_added(dev: Dev, command: Command) -> None:
    theirs = "whsec_" + "5" * 64
    place = ("--data-dir", str(dev.env_file.parent))
    command.run("source", "update", "dev", "--add-signing-secret", theirs, *place)
    body = samples.sample("customer.updated", seed=5).body

    def accepted() -> bool:
        header = signature.sign(body, theirs, int(time.time()))
        url, headers = dev.left["DEV_WEBHOOK_URL"], {"Stripe-Signature": header}
        return httpx.post(url, content=body, headers=headers, trust_env=False).status_code == 200

    await eventually(accepted)
    assert dev.post(body).json() == {"received": True, "duplicate": True}


async def test_a_restart_keeps_the_inbox_and_the_key(tmp_path: Path) -> None:
    command = Command(tmp_path)
    event = samples.sample("invoice.paid")
    with relay_dev(command, tmp_path / "data") as first:
        first.post(event.body)
        await eventually(lambda: first.delivered(event.event_id))
        said = first.stop()
    assert first.process.returncode == 0
    assert command.left_running() == []
    assert f"the inbox stays in {tmp_path / 'data'}" in said

    with relay_dev(command, tmp_path / "data") as second:
        assert second.left["DEV_WEBHOOK_KEY"] == first.left["DEV_WEBHOOK_KEY"]
        assert second.left["DEV_SIGNING_SECRET"] == first.left["DEV_SIGNING_SECRET"]
        assert second.left["RELAY_ENCRYPTION_KEYS"] == first.left["RELAY_ENCRYPTION_KEYS"]
        assert second.post(event.body).json() == {"received": True, "duplicate": True}
        (found,) = await second.rows("SELECT state, relay.body(id) AS body FROM relay.events")
        assert (found["state"], found["body"]) == ("delivered", event.body)
        second.stop(signal.SIGINT)
    assert second.process.returncode == 0
    assert command.left_running() == []


async def test_a_kill_leaves_nothing_running_and_can_be_followed(tmp_path: Path) -> None:
    command = Command(tmp_path)
    event = samples.sample("charge.succeeded")
    with relay_dev(command, tmp_path / "data") as first:
        assert first.post(event.body).status_code == 200
        first.stop(signal.SIGKILL)
        await eventually(lambda: not command.left_running())
    with relay_dev(command, tmp_path / "data") as second:
        assert second.post(event.body).json() == {"received": True, "duplicate": True}


async def test_a_part_that_ends_ends_all(tmp_path: Path) -> None:
    command = Command(tmp_path)
    with relay_dev(command, tmp_path / "data") as dev:
        # The guard has the command of the broker as one argument, and not as its own.
        (broker,) = [
            pid for pid, line in command.processes() if re.match(r"\S+tansu\S* broker", line)
        ]
        os.kill(broker, signal.SIGKILL)
        dev.process.communicate(timeout=60)
    assert dev.process.returncode == 1
    assert "the broker has ended by itself" in (tmp_path / "data.log").read_text()
    assert command.left_running() == []


def test_a_second_one_on_the_directory_is_refused(dev: Dev, command: Command) -> None:
    directory = dev.env_file.parent
    done = command.run("dev", "--data-dir", str(directory), *FREE_PORTS, exits=1)
    assert f"another `relay dev` (process {dev.process.pid}) is using {directory}" in done.stderr


@pytest.mark.parametrize("flag", ["--port", "--admin-port"])
def test_a_port_in_use_is_named(dev: Dev, command: Command, tmp_path: Path, flag: str) -> None:
    port = dev.left["RELAY_PUBLIC_URL"].rpartition(":")[2]
    other = "--admin-port" if flag == "--port" else "--port"
    args = ("--data-dir", str(tmp_path / "data"), flag, port, other, "0")
    done = command.run("dev", *args, exits=1)
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in done.stderr
    assert f"with {flag}\n" in done.stderr
    assert not (tmp_path / "data" / "postgres").exists()


def test_settings_that_contradict_flags_are_refused(tmp_path: Path) -> None:
    command = Command(tmp_path, RELAY_BIND="127.0.0.1:9000")
    done = command.run("dev", "--data-dir", "data", exits=2)
    assert "RELAY_BIND says port 9000, and --port says 8080: give --port 9000" in done.stderr
    done = Command(tmp_path).run("dev", "--port", "8081", "--data-dir", "data", exits=2)
    assert "--port and --admin-port are both 8081" in done.stderr
    assert not (tmp_path / "data").exists()


async def test_what_the_environment_names_is_used(
    tmp_path: Path, empty_database_url: str, kafka: str
) -> None:
    keys = new_key()
    command = Command(
        tmp_path,
        RELAY_DATABASE_URL=empty_database_url,
        RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka,
        RELAY_ENCRYPTION_KEYS=keys,
    )
    with relay_dev(command, tmp_path / "data") as dev:
        assert dev.left["RELAY_DATABASE_URL"] == empty_database_url
        assert dev.left["RELAY_KAFKA_BOOTSTRAP_SERVERS"] == kafka
        assert dev.left["RELAY_ENCRYPTION_KEYS"] == keys
        assert not (tmp_path / "data" / "postgres").exists()
        event = samples.sample("customer.created")
        dev.post(event.body)
        await eventually(lambda: dev.delivered(event.event_id))


def test_a_database_that_is_away_is_one_line(tmp_path: Path) -> None:
    url = "postgresql://relay:hush@127.0.0.1:1/relay"
    command = Command(tmp_path, RELAY_DATABASE_URL=url)
    done = command.run("dev", "--data-dir", "data", *FREE_PORTS, exits=1)
    assert (
        "relay: cannot use the database postgresql://relay:(hidden)@127.0.0.1:1/re" in done.stderr
    )
    assert "hush" not in done.stderr
    assert command.left_running() == []


def test_machines_get_one_object(tmp_path: Path) -> None:
    command = Command(tmp_path)
    process = command.start("dev", "--json", "--data-dir", "data", *FREE_PORTS)
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    process.terminate()
    out, _ = process.communicate(timeout=60)
    left = envfile.read(tmp_path / "data" / "relay.env")
    assert (process.returncode, out) == (0, "")
    assert told["webhook_url"] == left["DEV_WEBHOOK_URL"]
    assert told["api_key"] == left["DEV_WEBHOOK_KEY"]
    assert told["signing_secret"] == left["DEV_SIGNING_SECRET"]
    assert told["env_file"] == str(tmp_path / "data" / "relay.env")


# The source


@pytest.fixture
def seal() -> Seal:
    return Seal([new_key()])


async def ensure(database: Database, seal: Seal, **left: str) -> dev_source.DevSource:
    async with database.begin() as connection:
        return await dev_source.ensure(connection, seal, left, FAKE_KEY)


async def test_a_key_that_has_ended_is_replaced(database: Database, seal: Seal) -> None:
    first = await ensure(database, seal)
    async with database.begin() as connection:
        found = await sources.find(connection, "dev")
        await sources.rotate_key(connection, found.config.source_id, timedelta())
    second = await ensure(database, seal, DEV_WEBHOOK_KEY=first.key)
    assert second.key != first.key
    assert (await ensure(database, seal, DEV_WEBHOOK_KEY=second.key)).key == second.key


async def test_a_stripe_key_of_the_user_is_kept(database: Database, seal: Seal) -> None:
    assert (await ensure(database, seal)).reads_fake
    async with database.begin() as connection:
        found = await sources.find(connection, "dev")
        await sources.update_settings(
            connection,
            found.config.source_id,
            found.config,
            sealed_secrets=found.sealed_secrets,
            sealed_stripe_key=seal.seal(b"sk_test_theirs"),
        )
    assert not (await ensure(database, seal)).reads_fake
    async with database.begin() as connection:
        sealed = (await sources.find(connection, "dev")).sealed_stripe_key
    assert sealed is not None
    assert seal.open(sealed) == b"sk_test_theirs"


async def test_secrets_of_the_user_are_kept(database: Database, seal: Seal) -> None:
    first = await ensure(database, seal)
    async with database.begin() as connection:
        found = await sources.find(connection, "dev")
        await sources.update_settings(
            connection,
            found.config.source_id,
            found.config,
            sealed_secrets=[seal.seal(b"whsec_theirs")],
            sealed_stripe_key=None,
        )
    assert first.signing_secret is not None
    second = await ensure(database, seal, DEV_SIGNING_SECRET=first.signing_secret)
    assert (second.signing_secret, second.added_secrets) == (None, 1)
    assert not second.unopenable


async def test_secrets_that_cannot_be_opened_are_replaced(database: Database, seal: Seal) -> None:
    first = await ensure(database, seal)
    second = await ensure(database, Seal([new_key()]), DEV_WEBHOOK_KEY=first.key)
    assert second.unopenable
    assert second.key == first.key
    assert second.signing_secret not in (None, first.signing_secret)


async def test_a_deleted_source_is_made_anew(database: Database, seal: Seal) -> None:
    first = await ensure(database, seal)
    async with database.begin() as connection:
        found = await sources.find(connection, "dev")
        await sources.delete(connection, found.config.source_id)
    second = await ensure(database, seal, DEV_WEBHOOK_KEY=first.key)
    assert second.public_id != first.public_id


# The directory


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    directory = DataDirectory(tmp_path / "file" / "data")
    with pytest.raises(StartError, match="--data-dir: cannot use"), directory.ours():
        pass


def test_the_lock_is_free_after_use(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "data")
    with directory.ours(), pytest.raises(StartError, match="another"), directory.ours():
        pass
    with directory.ours():
        pass
