"""What fails for a moment is asked for again at once; what lasts is told."""

from __future__ import annotations

import pytest

from relay.dev.stripe_api import FakeStripe, Fault, FaultKind
from relay.stripe import Answer, Delayed, Page, Refused, StripeApi, fetch_page

CHARGES = "/v1/charges"


async def fetch(fake: FakeStripe, admitted: list[int], path: str = CHARGES) -> Answer:
    async def admit(before: int) -> None:
        assert before == fake.traffic.requests()
        admitted.append(before)

    async with StripeApi(fake.url, fake.key) as api:
        return await fetch_page(api, path, admit=admit)


async def test_a_page_at_once_needs_one_request() -> None:
    admitted: list[int] = []
    async with FakeStripe({"charge": 3}) as fake:
        answer = await fetch(fake, admitted)
    assert isinstance(answer, Page)
    assert len(answer.objects) == 3
    assert admitted == [0]


@pytest.mark.parametrize("kind", ["lock_timeout", "conflict", "error", "unavailable", "dropped"])
async def test_what_passes_is_asked_for_again_and_each_time_admitted(kind: FaultKind) -> None:
    admitted: list[int] = []
    async with FakeStripe({"charge": 3}, faults=[Fault(kind, times=2)]) as fake:
        assert isinstance(await fetch(fake, admitted), Page)
    assert admitted == [0, 1, 2]


async def test_what_lasts_is_told() -> None:
    admitted: list[int] = []
    async with FakeStripe({"charge": 3}, faults=[Fault("error")]) as fake:
        answer = await fetch(fake, admitted)
    assert isinstance(answer, Delayed)
    assert answer.verdict == "server_error"
    assert admitted == [0, 1, 2]


@pytest.mark.parametrize("kind", ["endpoint-rate", "global-concurrency", "html", "no_retry"])
async def test_what_a_repetition_would_not_help_is_told_at_once(kind: FaultKind) -> None:
    admitted: list[int] = []
    async with FakeStripe({"charge": 3}, faults=[Fault(kind)]) as fake:
        answer = await fetch(fake, admitted)
    assert isinstance(answer, Delayed | Refused)
    assert admitted == [0]


async def test_a_refusal_is_not_repeated() -> None:
    admitted: list[int] = []
    async with FakeStripe({}) as fake:
        answer = await fetch(fake, admitted, path="/v1/nothings")
    assert isinstance(answer, Refused)
    assert admitted == [0]
