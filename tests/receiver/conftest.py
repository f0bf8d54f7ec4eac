"""A receiver on a fresh database, made the way the test wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.receiver.serving import Serving, SourceUnderTest


@pytest.fixture
def serve(database_url: str) -> Iterator[Callable[..., Serving]]:
    """`serve(**options of Receiver)`; stopped and checked at the end."""
    started: list[Serving] = []

    def start(**options: Any) -> Serving:
        started.append(Serving(options.pop("database_url", database_url), **options))
        return started[-1]

    yield start
    for serving in started:
        serving.stop()


@pytest.fixture
def serving(serve: Callable[..., Serving]) -> Serving:
    """A receiver with the limits of production."""
    return serve()


@pytest.fixture
def source(serving: Serving) -> SourceUnderTest:
    """A source of `serving`, with one signing secret."""
    return serving.add_source()
