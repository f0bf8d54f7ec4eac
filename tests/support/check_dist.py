"""Whether the wheel and the sdist hold what they should and nothing else.

python -m tests.support.check_dist DIRECTORY INSTALLED CHECKOUT

DIRECTORY holds the two, INSTALLED is an interpreter with the wheel, CHECKOUT one with what the
tests need. It runs on what builds a release (requirements/release.lock), from the checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Below the version's own directory. `.gitignore` tells hatchling, there too, what is no source.
SDIST_ALONE = {"PKG-INFO", ".gitignore"}
METADATA = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
# Left out on purpose: what only serves a checkout.
NOT_IN_SDIST = (".ci/", ".github/")

RIGHT = "from relay.store.schema import BUILD_REVISION\nrevision: int = BUILD_REVISION\n"
WRONG = RIGHT.replace("int", "str")


def main() -> int:
    directory, installed, checkout = sys.argv[1:]
    (wheel,) = Path(directory).glob("*.whl")
    (sdist,) = Path(directory).glob("*.tar.gz")
    with tempfile.TemporaryDirectory(prefix="relay-dist-") as scratch:
        found = [
            *check_wheel(wheel),
            *check_sdist(sdist),
            *check_again(wheel, sdist, Path(scratch) / "again"),
            *check_types(installed, Path(scratch)),
            *check_version(installed, wheel, Path(scratch)),
            *check_collection(checkout, sdist, Path(scratch) / "sdist"),
        ]
    for fault in found:
        print(fault, file=sys.stderr)
    if not found:
        print(f"{wheel.name} and {sdist.name} hold what they should and nothing else")
    return 1 if found else 0


def check_wheel(wheel: Path) -> Iterator[str]:
    """The package, the migrations inside of it, and its metadata."""
    information = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    wanted = tracked("relay") | {f"relay/{name}" for name in tracked("migrations")}
    wanted |= {f"{information}/{name}" for name in METADATA}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"{information}/METADATA").decode()
    yield from differences(wheel, names, wanted)
    for field in ("License-Expression: Apache-2.0", "Requires-Python: >=3.11"):
        if field not in metadata.splitlines():
            yield f"{wheel.name}: its metadata do not say {field}"


def check_sdist(sdist: Path) -> Iterator[str]:
    """Everything that git has, but for what serves a checkout."""
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if not member.isdir()]
    odd = [member.name for member in members if not member.isfile()]
    yield from (f"{sdist.name}: {name} is no plain file" for name in odd)
    wanted = {name for name in tracked(".") if not name.startswith(NOT_IN_SDIST)}
    names = {member.name.partition("/")[2] for member in members}
    yield from differences(sdist, names, wanted | SDIST_ALONE)


def check_again(wheel: Path, sdist: Path, directory: Path) -> Iterator[str]:
    """The wheel was made of the sdist: made of the checkout, both must come out the same."""
    for target in ("wheel", "sdist"):
        run([sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(directory)], ROOT)
    for made in (wheel, sdist):
        if (directory / made.name).read_bytes() != made.read_bytes():
            yield f"{made.name}: another build makes other bytes"


def check_types(installed: str, directory: Path) -> Iterator[str]:
    """Whoever imports us gets our types: a mistake is found, and only a mistake."""
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", installed]
    for name, text, status in (("right", RIGHT, 0), ("wrong", WRONG, 1)):
        (directory / f"{name}.py").write_text(text)
        done = run([*command, f"{name}.py"], directory, check=False)
        if done.returncode != status:
            yield f"a consumer that is {name} about our types:\n{done.stdout}{done.stderr}"


def check_version(installed: str, wheel: Path, directory: Path) -> Iterator[str]:
    told = run([installed, "-m", "relay", "--version"], directory).stdout
    if wheel.name.split("-")[1] not in told.split():
        yield f"{wheel.name}: installed, relay --version says {told!r}"


def check_collection(checkout: str, sdist: Path, directory: Path) -> Iterator[str]:
    """The tests come along whole."""
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (unpacked,) = directory.iterdir()
    command = [checkout, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider"]
    here, there = (run(command, place).stdout for place in (ROOT, unpacked))
    if here != there:
        yield f"{sdist.name}: other tests than in the checkout"


def differences(archive: Path, names: set[str], wanted: set[str]) -> Iterator[str]:
    yield from (f"{archive.name}: {name} is missing" for name in sorted(wanted - names))
    yield from (f"{archive.name}: {name} has no business there" for name in sorted(names - wanted))


def tracked(*paths: str) -> set[str]:
    """What git has below these paths."""
    return set(run(["git", "ls-files", "-z", "--", *paths], ROOT).stdout.split("\0")) - {""}


def run(
    command: list[str], directory: Path, *, check: bool = True
) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done


if __name__ == "__main__":
    sys.exit(main())
