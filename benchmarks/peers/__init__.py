"""The peers: programs that others made, each as fast as its own documentation knows how.

A peer that forwards is a command with two verbs. `prepare DATABASE_URL` makes its tables;
`forward DATABASE_URL KAFKA TOPIC EVENTS` sends the events that are stored there, and prints how
many a second it were and the µs of CPU that it used for each, both without the first fifth where
something has to warm up.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree

from benchmarks import figures

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "bench"
"""What is built or fetched, below the ignored directory of the repository."""
_JAVA = ("-Xmx1g", "-XX:+UseG1GC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error")


class NotHereError(Exception):
    """A peer that this machine cannot build or run; the message tells what is missing."""


def commands(peers: Mapping[str, Callable[[], list[str]]]) -> dict[str, list[str]]:
    """Build the peers, and leave out, with a line that says so, which cannot be had here."""
    built = {}
    for name, build in peers.items():
        try:
            built[name] = build()
        except NotHereError as error:
            figures.not_here(name, error)
    return built


def python(module: str) -> list[str]:
    """The command of a peer in Python, in the environment that `make bench` makes."""
    return [tool("python"), str(HERE / f"{module}.py")]


def tool(name: str) -> str:
    """A program of that environment."""
    program = CACHE / "venv" / "bin" / name
    if not program.exists():
        raise NotHereError(f"no {program.relative_to(CACHE.parents[1])}: `make bench` makes it")
    return str(program)


def go(program: str) -> list[str]:
    """The command of a peer in Go."""
    compiler = _program("go")
    (CACHE / "go").mkdir(parents=True, exist_ok=True)
    _run([compiler, "build", "-o", f"{CACHE / 'go'}/", "./..."], HERE / "go")
    return [str(CACHE / "go" / program)]


def debezium() -> list[str]:
    """The command of the one peer in Java, whose jars Maven brings."""
    java, maven = _program("java"), _program("mvn")
    pom = HERE / "debezium" / "pom.xml"
    jars = CACHE / f"debezium-{ElementTree.parse(pom).getroot().findtext('{*}version')}"
    if not jars.exists():
        unfinished = jars.with_suffix(".new")
        copy = ["dependency:copy-dependencies", f"-DoutputDirectory={unfinished}"]
        _run([maven, "--quiet", "--batch-mode", *copy, "-DincludeScope=runtime"], pom.parent)
        unfinished.rename(jars)
    return [java, *_JAVA, "-cp", f"{jars}/*", str(pom.with_name("Forward.java"))]


def _program(name: str) -> str:
    program = shutil.which(name)
    if program is None:
        raise NotHereError(f"no {name}")
    return program


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if done.returncode != 0:
        why = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise NotHereError(f"`{Path(command[0]).name}` failed: {' / '.join(why)}")
