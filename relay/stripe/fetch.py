"""Asking for a page a few times in a row: most failures of a connection pass at once."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import tenacity
from tenacity.asyncio import AsyncRetrying

from relay.core.listings import API_VERSION
from relay.stripe.answer import Answer, Delayed, DelayVerdict
from relay.stripe.api import StripeApi

_PASSING: Final[frozenset[DelayVerdict]] = frozenset(
    {"conflict", "locked", "server_error", "unreachable"}
)
_TRIES: Final = 3
_SECONDS: Final = 5.0
"""No further try is begun after so long: whoever waits holds something meanwhile."""


async def fetch_page(
    api: StripeApi,
    path: str,
    parameters: Sequence[tuple[str, str]] = (),
    *,
    admit: Callable[[int], Awaitable[None]],
    created_field: str = "created",
    api_version: str = API_VERSION,
) -> Answer:
    """The answer to a request for a page, or to one of two repetitions of it.

    Repeated, with full jitter, is what fails for a moment: a conflict, a lock, an error of the
    server or of the way to it. A rate limit and a time-out are not: what lasts longer is for the
    caller to wait for. ``admit`` is awaited before each request with how many came before it.
    """
    requests = itertools.count()

    async def ask() -> Answer:
        await admit(next(requests))
        return await api.list_page(
            path, parameters, created_field=created_field, api_version=api_version
        )

    retrying = AsyncRetrying(
        retry=tenacity.retry_if_result(
            lambda answer: isinstance(answer, Delayed) and answer.verdict in _PASSING
        ),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=2.0),
        stop=tenacity.stop_after_attempt(_TRIES) | tenacity.stop_after_delay(_SECONDS),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    answer: Answer = await retrying(ask)
    return answer
