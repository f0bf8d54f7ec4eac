"""The build steps of the Dockerfile, and their result, on this machine and without an engine.

bubblewrap puts the directories where the image has them; the base image is this system with the
Python that runs the tests in /usr/local.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.deploy.tools import ROOT, program

USER = 10001
_BASE = Path(sys.base_prefix)
# Where its interpreter finds itself, when it was built for another place.
_LIBRARIES = {"LD_LIBRARY_PATH": "/usr/local/lib"}


class Dockerfile:
    """The instructions of one stage after another, continued lines joined, without comments."""

    def __init__(self, path: Path) -> None:
        kept = [line for line in path.read_text().splitlines() if line.strip() and line[0] != "#"]
        lines = "\n".join(kept).replace("\\\n", " ").splitlines()
        self.stages: list[list[tuple[str, str]]] = []
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "FROM":
                self.stages.append([])
            if self.stages:
                self.stages[-1].append((word, rest.strip()))

    def all(self, word: str, stage: int) -> list[str]:
        return [rest for instruction, rest in self.stages[stage] if instruction == word]

    def variables(self, stage: int) -> dict[str, str]:
        """What ENV sets."""
        pairs = (pair for rest in self.all("ENV", stage) for pair in shlex.split(rest))
        return dict(pair.split("=", 1) for pair in pairs)


class Image:
    """What the first stage of the Dockerfile makes, below ``directory``; built when it is made."""

    def __init__(self, directory: Path) -> None:
        self.dockerfile = Dockerfile(ROOT / "Dockerfile")
        self._directory = directory
        for name in ("opt", "build", "local/bin"):
            (directory / name).mkdir(parents=True)
        (directory / "local" / "bin" / "python").symlink_to("/usr/bin/python3")
        self._bubblewrap = program("bwrap", source="Debian: bubblewrap")
        self._build()

    @property
    def relay(self) -> list[str | Path]:
        """The command `relay` as the second stage runs it: nothing can be written but /tmp."""
        return [*self._as_user(), "relay"]

    def run(self, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Another command in the same place."""
        return subprocess.run(
            [*self._as_user(), *command],
            env={**self.environment(), **environ},
            capture_output=True,
            text=True,
        )

    def environment(self) -> dict[str, str]:
        """What a container has for variables."""
        return {
            **self.dockerfile.variables(1),
            **_LIBRARIES,
            "PATH": f"/opt/relay/bin:/usr/local/bin:{os.defpath}",
            "HOME": "/nonexistent",
        }

    def _build(self) -> None:
        for word, rest in self.dockerfile.stages[0]:
            if word == "COPY":
                self._copy(*rest.split())
            elif word == "RUN":
                self._run(rest)

    def _copy(self, *words: str) -> None:
        *sources, target = words
        for source in sources:
            path = ROOT / source
            into = self._directory / "build" / target
            if path.is_dir():
                shutil.copytree(path, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, into)

    def _run(self, script: str) -> None:
        kept = {"opt", "build", "proc", "dev", "tmp"}
        system = [path for path in Path("/").iterdir() if path.name not in kept]
        command = [*self._bubblewrap_with(system, opt="--bind"), "--chdir", "/build"]
        environment = {**os.environ, **self.dockerfile.variables(0), **_LIBRARIES}
        environment["PATH"] = f"/usr/local/bin:{os.defpath}"
        done = subprocess.run(
            [*command, "/bin/sh", "-euc", script], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"RUN {script}\n{done.stdout}\n{done.stderr}"

    def _as_user(self) -> list[str | Path]:
        system = [Path(path) for path in ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")]
        command = self._bubblewrap_with(system, opt="--ro-bind")
        command += ["--remount-ro", "/", "--die-with-parent", "--chdir", "/"]
        # To become another user, and for nothing else.
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "setpriv"]
        command += [f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
        return [*command, "--inh-caps=-all", "--"]

    def _bubblewrap_with(self, system: list[Path], *, opt: str) -> list[str | Path]:
        """With these parts of our system, read-only, and a temporary directory in memory."""
        found: list[str | Path] = [self._bubblewrap]
        for path in system:
            if path.is_symlink():
                found += ["--symlink", os.readlink(path), path]
            elif path.exists():
                found += ["--ro-bind", path, path]
        found += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp"]
        found += [opt, self._directory / "opt", "/opt"]
        found += ["--bind", self._directory / "build", "/build"] if opt == "--bind" else []
        base = self._directory / "local" if Path("/usr") == _BASE else _BASE
        return [*found, "--ro-bind", base, "/usr/local"]


def json_form(instruction: str) -> list[str]:
    """The words of `… ["a", "b"]`."""
    words: list[str] = json.loads(instruction[instruction.index("[") :])
    return words
