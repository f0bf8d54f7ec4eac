"""Nothing secret leaves the receiver, neither before nor after the redaction of the logs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from relay import logs
from tests.receiver.client import Client, exchange
from tests.receiver.proxy import Proxy
from tests.receiver.serving import Serving, SourceUnderTest, event, request

CANARY = "canary5f2d"


def provoke(serving: Serving, source: SourceUnderTest, proxy: Proxy) -> list[bytes]:
    """Everything that may go wrong with a request, with the canary in every part; the answers."""
    body = event("evt_1", note=CANARY, type=f"a.{CANARY}")
    answers = []
    for raw in (
        request(source, body),
        request(source, body),
        request(source, body, f"stripe-signature: t=1,v1={CANARY}"),
        request(source, body, f"stripe-signature: {CANARY}"),
        request(source, f"{CANARY}\udcff".encode("utf-8", "surrogateescape")),
        request(source, event("evt_2", account=f"{CANARY}\0")),
        request(source, body, target=f"/webhooks/{CANARY}?api_key={CANARY}"),
        request(source, body, target=f"/webhooks/{source.public_id}?api_key={CANARY}"),
        request(source, body, target=f"{source.target}&api_key={CANARY}"),
        request(source, body, f"content-encoding: {CANARY}"),
        request(source, body, f"content-length: {CANARY}"),
        request(source, body, f"transfer-encoding: {CANARY}"),
        request(source, body, f"x: {CANARY * 10_000}"),
        request(source, body).replace(b"POST", b"GET"),
        f"{CANARY} / HTTP/1.1\r\n\r\n".encode(),
        f"GET /{CANARY}?api_key={source.key} HTTP/1.1\r\n\r\n".encode(),
        f"GET {CANARY} HTTP/1.1\r\n\r\n".encode(),
    ):
        answer = exchange(serving.port, raw)
        answers.append(repr(answer).encode())
    with Client(serving.port) as client:
        client.send(request(source, body)[:-20])
    serving.run(_crash(serving, source))
    proxy.cut()
    answers.append(repr(serving.post(source, event(f"evt_{CANARY}"))).encode())
    return answers


async def _crash(serving: Serving, source: SourceUnderTest) -> None:
    """A bug of ours whose message quotes the request."""
    route = serving.receiver._route

    async def broken(*arguments: object) -> None:
        raise RuntimeError(f"{CANARY} {source.key} {arguments}")

    kept, route._store = route._store, broken  # type: ignore[method-assign, assignment]
    try:
        answer = await serving._loop.run_in_executor(None, serving.post, source, event("evt_9"))
    finally:
        route._store = kept  # type: ignore[method-assign]
    assert answer.status == 503
    serving.receiver.counters.crashes -= 1


def secrets_of(source: SourceUnderTest) -> list[str]:
    return [CANARY, source.key, source.secret, source.secret.removeprefix("whsec_")]


@pytest.fixture
def proxy(database_url: str) -> Any:
    with Proxy(database_url) as proxy:
        yield proxy


def test_no_line_of_any_logger_holds_a_secret(
    serve: Callable[..., Serving], proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Before any redaction: our own lines and those of uvicorn, Litestar and asyncio."""
    caplog.set_level(logging.DEBUG)
    with capture_logs() as lines:
        serving = serve(database_url=proxy.url)
        source = serving.add_source()
        answers = provoke(serving, source, proxy)
        serving.stop()
    written = repr(lines) + "".join(
        f"{record.getMessage()} {record.exc_text} {record.args}" for record in caplog.records
    )
    assert "receiver.started" in written
    assert "receiver.crashed" in written
    for secret in secrets_of(source):
        assert secret not in written
        assert not any(secret.encode() in answer for answer in answers)


def test_no_metric_holds_a_secret(serve: Callable[..., Serving], proxy: Proxy) -> None:
    serving = serve(database_url=proxy.url)
    source = serving.add_source()
    provoke(serving, source, proxy)
    counters = vars(serving.receiver.counters) | {"answers": []}
    counted = msgspec.json.encode(counters).decode() + repr(serving.receiver.counters.answers)
    for secret in [*secrets_of(source), source.public_id]:
        assert secret not in counted


def test_the_logs_as_they_are_configured(
    serve: Callable[..., Serving], proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same through the real handlers, uvicorn's loggers among them."""
    logs.configure("json", "debug")
    try:
        serving = serve(database_url=proxy.url)
        source = serving.add_source()
        provoke(serving, source, proxy)
        serving.stop()
        logging.getLogger("uvicorn.access").info("%s %s", "POST", source.target)
        logging.getLogger("uvicorn.error").error("failed: %s", source.target)
    finally:
        structlog.reset_defaults()
        for handler in logging.getLogger().handlers[:]:
            if isinstance(handler, logs._Stderr):
                logging.getLogger().removeHandler(handler)
        logging.getLogger("uvicorn.access").disabled = False
    out, err = capfd.readouterr()
    assert '"event": "receiver.started"' in err
    assert "failed: " in err
    assert '"POST' not in err
    for secret in secrets_of(source):
        assert secret not in out + err
