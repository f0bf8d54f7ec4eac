"""How results are written."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import click
import pytest

from relay.cli.output import cell, say, write_fields, write_json, write_table
from relay.display import duration, moment

WHEN = datetime(2026, 11, 24, 18, 0, 0, 123456, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        ("", "-"),
        ([], "-"),
        ((), "-"),
        (0, "0"),
        (False, "no"),
        (True, "yes"),
        (b"\xab\xcd", "abcd"),
        (["a", "b"], "a, b"),
        (WHEN, "2026-11-24T17:00:00.123Z"),
        ("\x1b[1m\n", "\\x1b[1m\\n"),
    ],
)
def test_a_cell(value: object, shown: str) -> None:
    assert cell(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.9, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3660, "1h 1m"), (180_000, "2d 2h")],
)
def test_a_duration(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_a_moment_is_rfc_3339_in_utc() -> None:
    assert moment(WHEN.astimezone(UTC)) == moment(WHEN) == "2026-11-24T17:00:00.123Z"


def test_json_is_ascii_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"text": "ü\x1b\x7f\u202e\ud800", "bytes": b"\x01", "when": WHEN, "list": [None, 1.5]}
    write_json(value)
    written = capsys.readouterr().out
    assert written.isascii()
    assert "\x7f" not in written
    assert json.loads(written) == {
        "text": "ü\x1b\x7f\u202e\ud800",
        "bytes": "01",
        "when": "2026-11-24T17:00:00.123Z",
        "list": [None, 1.5],
    }


def test_one_line_of_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"a": "x\ny\u2028", "b": {}}, one_line=True)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_table_cuts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    long, error = "evt_" + "x" * 300, "because " * 100
    rows = [
        {"event_id": long, "error": error, "other": 1},
        {"event_id": "[red]漢", "error": None, "other": 2},
    ]
    write_table(rows, ("event_id", "error"), "nothing")
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["EVENT", "ID", "ERROR"]
    assert first.startswith(long)
    assert first.endswith(error.strip())
    assert second.split() == ["[red]漢", "-"]


def test_a_narrow_terminal_leaves_out_what_can_be_spared(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": 1, "event_id": "evt_" + "x" * 24, "source": "a" * 20, "state": "pending"}]
    spare = ("source", "state")

    def written(columns: int) -> tuple[list[str], str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        write_table(rows, list(rows[0]), "", spare=spare)
        printed = capsys.readouterr()
        return click.unstyle(printed.out).splitlines(), printed.err

    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    assert written(20)[0][0].split() == ["ID", "EVENT", "ID", "SOURCE", "STATE"]
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    # 2 + 28 + 20 + 7 columns, and two between each of them.
    whole, said = written(63)
    assert whole[1].split() == ["1", rows[0]["event_id"], "a" * 20, "pending"]
    assert said == ""
    lines, said = written(62)
    assert [line.split() for line in lines] == [
        ["ID", "EVENT", "ID", "STATE"],
        ["1", rows[0]["event_id"], "pending"],
    ]
    assert said == "(too narrow for source: --json has all)\n"
    lines, said = written(20)
    assert lines[1].split() == ["1", rows[0]["event_id"]], "ids are whole on any terminal"
    assert said == "(too narrow for source, state: --json has all)\n"


def test_a_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("\nobject cus_\nFORGED\x1b[2J")
    assert capsys.readouterr().out == "\nobject cus_\\nFORGED\\x1b[2J\n"


def test_an_empty_table_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    write_table([], ("a",), "nothing here")
    assert capsys.readouterr().out == "nothing here\n"


def test_fields_are_below_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    write_fields({"event_id": "evt_\x1b", "body": None})
    assert capsys.readouterr().out == "event id  evt_\\x1b\nbody      -\n"
