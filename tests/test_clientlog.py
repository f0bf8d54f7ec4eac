"""The lines of librdkafka in our log: each kind now and then."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from relay.kafka.clientlog import Seldom


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("test.clientlog")
    yield logger
    logger.filters.clear()


def test_a_kind_of_line_comes_once_in_half_a_minute(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    logger.addFilter(Seldom(lambda: now))

    def refused(milliseconds: int) -> None:
        logger.error("%s [%s] %s", "FAIL", "relay", f"refused after {milliseconds}ms")

    for milliseconds in range(20):
        refused(milliseconds)
    logger.error("%s [%s] %s", "FAIL", "relay", "another broker is away")
    now = 30.0
    refused(7)
    refused(8)
    assert caplog.messages == [
        "FAIL [relay] refused after 0ms",
        "FAIL [relay] another broker is away",
        "FAIL [relay] refused after 7ms (and 19 more like it)",
    ]


def test_it_does_not_remember_without_end(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    seldom = Seldom(lambda: 0.0)
    logger.addFilter(seldom)
    for number in range(3000):
        logger.error("line " + "x" * number)
    assert len(caplog.messages) == 3000
    assert len(seldom._kinds) <= 1000
