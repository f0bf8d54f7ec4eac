"""Asking for a page until there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

import tenacity
from tenacity.asyncio import AsyncRetrying

from relay.stripe.answer import Answer, Delayed, Page, Refused
from relay.stripe.api import StripeApi

_UNUSABLE_TRIES: Final = 5
"""How often something that is not Stripe's answer may come for one page. A proxy's page passes by;
a wrong address does not."""


class Pace(Protocol):
    """Who decides how fast to ask, and tells people why it takes its time."""

    async def admit(self) -> None:
        """Waits until the next request may be sent."""

    async def limited(self, answer: Delayed) -> None:
        """A request was refused because there are too many; `limit_reason` says of what."""

    def waiting(self, answer: Delayed, seconds: float, attempt: int) -> None:
        """The `attempt`-th request (1 = the first) brought no page; the next is due in `seconds`
        at the earliest."""


async def fetch_page(
    api: StripeApi,
    path: str,
    parameters: Sequence[tuple[str, str]] = (),
    *,
    pace: Pace,
    stop: asyncio.Event,
    created_field: str = "created",
    backoff_base_seconds: float = 0.5,
    backoff_cap_seconds: float = 30.0,
) -> Page | Refused | None:
    """A page, or the refusal for good; None when `stop` was set before either.

    Rate limits and outages have no limit of tries: they last as long as they last. Between tries
    it waits with full jitter: a random share of `min(cap, base * 2 ** (attempt - 1))`, at least
    what the answer asks for (as far as the cap). `stop` ends the waiting and further tries; a
    request that is under way is let finish, unless the task is cancelled.
    """
    unusable = 0

    async def attempt() -> Answer | None:
        nonlocal unusable
        if not stop.is_set():
            await pace.admit()
        if stop.is_set():
            return None
        answer = await api.list_page(path, parameters, created_field=created_field)
        if isinstance(answer, Delayed):
            if answer.verdict == "rate_limited":
                await pace.limited(answer)
            elif answer.verdict == "unusable":
                unusable += 1
                if unusable == _UNUSABLE_TRIES:
                    return Refused("unusable", answer.message, answer.status, answer.request_id)
        return answer

    def announce(state: tenacity.RetryCallState) -> None:
        answer = _answer_of(state)
        if answer is not None:
            pace.waiting(answer, state.upcoming_sleep, state.attempt_number)

    retrying = AsyncRetrying(
        retry=tenacity.retry_if_result(lambda answer: isinstance(answer, Delayed)),
        wait=partial(
            _wait,
            tenacity.wait_random_exponential(
                multiplier=backoff_base_seconds, max=backoff_cap_seconds
            ),
            backoff_cap_seconds,
        ),
        sleep=partial(_sleep, stop),
        stop=lambda state: stop.is_set(),
        before_sleep=announce,
        retry_error_callback=lambda state: None,
    )
    answer: Answer | None = await retrying(attempt)
    return None if isinstance(answer, Delayed) else answer


def _answer_of(state: tenacity.RetryCallState) -> Delayed | None:
    answer = None if state.outcome is None else state.outcome.result()
    return answer if isinstance(answer, Delayed) else None


def _wait(
    jitter: tenacity.wait_random_exponential, cap: float, state: tenacity.RetryCallState
) -> float:
    answer = _answer_of(state)
    least = (answer.retry_after or 0.0) if answer is not None else 0.0
    return max(jitter(state), min(least, cap))


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
