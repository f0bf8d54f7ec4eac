"""Bars on a terminal, and how to go on with what was interrupted."""

from __future__ import annotations

import click
import pytest

from relay.cli.progress import interruptible, progress


def test_a_bar_is_for_a_terminal_and_never_on_stdout(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    for is_terminal in ("0", "1"):
        monkeypatch.setenv("TTY_COMPATIBLE", is_terminal)
        with progress("queue\x1b[2Jing", 1200) as show:
            show(700)
        written = capsys.readouterr()
        assert written.out == ""
        if is_terminal == "0":
            assert written.err == ""
        else:
            assert "queue\\x1b[2Jing" in click.unstyle(written.err)
            assert "700/1200" in click.unstyle(written.err)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_whatever_interrupts_is_told_of_and_let_through(
    capsys: pytest.CaptureFixture[str], error: type[BaseException]
) -> None:
    done = 1

    def work() -> None:
        nonlocal done
        done = 2
        raise error

    with pytest.raises(error), interruptible(lambda: f"{done} done"):
        work()
    assert click.unstyle(capsys.readouterr().err) == "warning: interrupted: 2 done\n"
    with interruptible(lambda: "never"):
        pass
    assert capsys.readouterr().err == ""
