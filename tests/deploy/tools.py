"""Programs that check what is deployed, and the files of this repository that they check."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
_TOOLS = ROOT / ".cache" / "deploy" / "bin"

# Taken out of the environment, where relay's own processes would refuse an unknown RELAY_ name.
_EVERYTHING = os.environ.pop("RELAY_TEST_DEPLOY", "") == "all"


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it where everything is meant to be there."""
    if _EVERYTHING:
        pytest.fail(f"missing: {what}")
    pytest.skip(f"{what}; `make check-deploy` has all of them")


def needs_everything(why: str) -> None:
    """For a test that is too much for every run of the tests."""
    if not _EVERYTHING:
        pytest.skip(f"{why}; `make check-deploy` does it")


def program(name: str, *, source: str) -> str:
    """The path of a program; ``source`` tells where one gets it."""
    found = shutil.which(name, path=os.pathsep.join([str(_TOOLS), os.environ["PATH"], "/usr/sbin"]))
    return found or missing(f"no {name} ({source})")


def run(*command: str | Path, **environ: str) -> str:
    """Its standard output; fails the test with all that it said unless it ends with 0."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}\n{done.stderr}"
    return done.stdout
