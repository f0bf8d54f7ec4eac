"""docs/tutorial.md, as a reader types it: every command, in order, in an empty directory."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.docs import pages
from tests.docs.terminals import Shell, terminals

FIRST_TERMINAL = "first terminal"
# What reads may be asked again until it says what it is to say.
READS = re.compile(r"relay (events|dlq) (list|show)|relay (status|tail)|psql ")
PATIENCE_SECONDS = 60.0


@pytest.mark.slow
def test_every_command_does_what_is_shown(tmp_path: Path) -> None:
    directory = tmp_path / "tutorial"
    with terminals(directory) as (first, second):
        for block in pages.blocks(pages.read("tutorial.md")):
            if block.title == FIRST_TERMINAL:
                (step,) = pages.steps(block.text)
                assert step.command == "relay dev"
                printed = first.start()
                assert pages.fits(printed, step.shown), printed
            elif block.language == "console":
                for step in pages.steps(block.text):
                    follow(second, step)


def follow(shell: Shell, step: pages.Step) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        status, printed = shell.run(step.command)
        if status == 0 and pages.fits(printed, step.shown):
            return
        again = READS.search(step.command) and time.monotonic() < end
        assert again, f"$ {step.command}\n{printed}\nexit status {status}; shown:\n{step.shown}"
        time.sleep(0.1)


def test_what_is_shown_is_compared() -> None:
    shown = "ID  STATE\n…\n7   dead  …\n"
    assert pages.fits("ID STATE\n1 delivered\n7    dead 2026-11-26T06:13:01Z\n", shown)
    assert pages.fits("ID  STATE\n7   dead  now\n", shown)
    assert not pages.fits("ID  STATE\n7   delivered\n", shown)
    assert not pages.fits("ID  STATE\n7   dead  now\nmore\n", shown)
