"""Log lines: one formatter for all loggers, and no secret in any of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from relay import logs

CANARIES = {
    "whsec_canary1": "signing secret",
    "sk_live_canary2": "Stripe key",
    "canary3": "API key of a webhook URL",
    "canary4": "password in a URL",
    "ca7a" * 16: "signature",
    "the canary5 token": "value known from the settings",
}
HOSTILE = (
    "whsec_canary1 sk_live_canary2 /webhooks/src_1?api_key=canary3 postgresql://u:canary4@h/d "
    f"t=1,v1={'ca7a' * 16} the canary5 token"
)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Odd:
    def __repr__(self) -> str:
        return HOSTILE


def fail() -> None:
    raise RuntimeError(HOSTILE)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_secret_reaches_a_line(
    log_format: Literal["console", "json"], capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(log_format, "debug", ["the canary5 token"])
    log = structlog.get_logger("relay.test")
    log.info(HOSTILE, text=HOSTILE, odd=Odd(), error=RuntimeError(HOSTILE))
    log.info("nested", some={HOSTILE: [HOSTILE, {"a": (HOSTILE,)}]}, password="hunter22")
    log.info("formatted %s", HOSTILE)
    standard = logging.getLogger("uvicorn.error")
    standard.warning("from the standard library: %s", HOSTILE)
    try:
        fail()
    except RuntimeError:
        log.exception("failed")
        standard.exception("failed too")
    logging.getLogger("uvicorn.access").info(HOSTILE)
    logging.getLogger("httpx").info(HOSTILE)
    written = capsys.readouterr()
    assert written.out == ""
    for canary, what in {**CANARIES, "hunter22": "a field called password"}.items():
        assert canary not in written.err, what
    assert "RuntimeError" in written.err, "the tracebacks are there"
    assert written.err.count("Traceback (most recent call last)") == 2


def test_json_is_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    structlog.get_logger("relay.a").info("batch settled", events=3, source="a\nb", paused=False)
    logging.getLogger("other").warning("line\nbreak %d", 7)
    try:
        fail()
    except RuntimeError:
        structlog.get_logger().exception("failed")
    first, second, third = (json.loads(x) for x in capsys.readouterr().err.splitlines())
    assert (
        first.items()
        >= {
            "event": "batch settled",
            "events": 3,
            "source": "a\\nb",
            "paused": False,
            "level": "info",
            "logger": "relay.a",
        }.items()
    )
    assert second["event"] == "line\\nbreak 7"
    assert second["logger"] == "other"
    assert "fail()" in third["exception"]


def test_the_console_gets_no_commands_from_strangers(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("console", "info")
    structlog.get_logger("relay.a").info("event", type="\x1b]0;owned\x07", name="a\nb")
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert "\x07" not in line


def test_the_level_decides(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "warning")
    structlog.get_logger("relay.a").info("quiet")
    structlog.get_logger("relay.a").warning("loud")
    logging.getLogger("x").info("quiet")
    assert [json.loads(x)["event"] for x in capsys.readouterr().err.splitlines()] == ["loud"]


def test_configuring_twice_does_not_log_twice(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    logs.configure("json", "info")
    structlog.get_logger("relay.a").info("once")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_without_a_terminal_the_format_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(None, "info")
    structlog.get_logger("relay.a").info("x")
    assert json.loads(capsys.readouterr().err)["event"] == "x"


def test_bound_context_appears(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    with structlog.contextvars.bound_contextvars(role="receiver"):
        structlog.get_logger("relay.a").info("x")
    assert json.loads(capsys.readouterr().err)["role"] == "receiver"
