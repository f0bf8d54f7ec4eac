"""Completion in a real bash."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import socket
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Relay, environment, invoke, output
from tests.cli.test_main import unused_port
from tests.support.processes import eventually

PROGRAMS = str(Path(sys.executable).parent)


async def bash(script: str, **environ: str) -> str:
    """What a bash that has read the completion script says; fails unless its stderr is empty."""
    path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    started = await asyncio.create_subprocess_exec(
        "bash", "--norc", "--noprofile", "-c", f'eval "$(relay completion bash)"\n{script}',
        env={"PATH": path, **environ},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    stdout, stderr = await started.communicate()
    assert (started.returncode, stderr.decode()) == (0, "")
    return stdout.decode()


async def complete(*words: str, **environ: str) -> list[str]:
    """What the Tab key would offer behind these words, the last of which is being typed."""
    line = " ".join(map(shlex.quote, ("relay", *words)))
    called = f'{{ COMP_WORDS=({line}); COMP_CWORD={len(words)}; "$name" relay; }}'
    said = await bash(
        f"name=$(complete -p relay | sed 's/.* -F \\([^ ]*\\) .*/\\1/')\n"
        f"{called}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        **environ,
    )
    return said.split()


async def test_bash_takes_the_script() -> None:
    assert re.match(r"complete -o nosort -F \w+ relay$", await bash("complete -p relay"))


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("sou",), ["source"]),
        (("dlq", ""), ["list", "show", "replay", "discard"]),
        (("replays", "s"), ["show"]),
        (("replays", "c"), ["cancel"]),
        (("dlq", "replay", "--res"), ["--resume"]),
        (("events", "list", "--state", "de"), ["dead", "delivered"]),
        (("completion", ""), ["bash", "zsh", "fish"]),
        (("nonsense", "dl"), ["dlq"]),
        (("events", "list", "--since", "nonsense", "--st"), ["--state"]),
    ],
)
async def test_commands_options_and_choices(words: tuple[str, ...], offered: list[str]) -> None:
    assert sorted(await complete(*words)) == sorted(offered)


async def test_names_of_sources(relay: Relay, database_url: str) -> None:
    for name in ("acme", "acorn", "beta"):
        await relay("source", "create", name, "--insecure")
    environ = environment(database_url)

    async def completes(*words: str, into: list[str]) -> None:
        """Nobody waits for long at a prompt: on a busy machine the next try may be in time."""

        async def is_so() -> bool:
            return await complete(*words, **environ) == into

        await eventually(is_so)

    await completes("dlq", "replay", "--source", "ac", into=["acme", "acorn"])
    await completes("source", "pause", "", into=["acme", "acorn", "beta"])
    await completes("snapshot", "start", "b", into=["beta"])


async def test_of_a_database_that_cannot_be_asked_nothing_is_said(empty_database_url: str) -> None:
    away = environment(f"postgresql://u@127.0.0.1:{unused_port()}/d")
    mistaken = {"RELAY_TOPIC_PARTITION": "6"}
    empty = {"RELAY_DATABASE_URL": empty_database_url}
    for environ in ({}, away, mistaken, empty, away | {"RELAY_LOG_LEVEL": "debug"}):
        assert await complete("events", "list", "--source", "", **environ) == [], environ


async def test_nobody_waits_for_a_database_that_does_not_answer() -> None:
    """It takes the connection, and is silent then for as long as the test lasts."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d"
        assert await complete("events", "list", "--source", "", **environment(url)) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_each_shell_has_its_script(shell: str) -> None:
    printed = (await invoke("completion", shell, environ={"RELAY_NONSENSE": "1"})).stdout
    assert f"_RELAY_COMPLETE={shell}_complete" in printed
    told = output(await invoke("completion", shell, "--json", environ={}))
    assert told["script"] == printed.removesuffix("\n")
    assert f"relay completion {shell}" in told["install"]


async def test_other_shells_are_refused() -> None:
    refused = await invoke("completion", "tcsh", environ={}, exits=2)
    assert "'bash', 'zsh', 'fish'" in refused.stderr
