"""A page is asked for until there is one, at the caller's pace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from relay.dev.stripe_api import FakeStripe, Fault, FaultKind
from relay.stripe import Delayed, Page, Refused, StripeApi, fetch_page
from tests.stripe.raw_server import RawServer

CHARGES = "/v1/charges"


class Recorder:
    """A pace that holds nobody up and writes all down."""

    def __init__(self, on_admit: Callable[[int], None] = lambda number: None) -> None:
        self.admitted = 0
        self.reasons: list[str | None] = []
        self.waits: list[tuple[str, int]] = []
        self.seconds: list[float] = []
        self.waited = asyncio.Event()
        self._on_admit = on_admit

    async def admit(self) -> None:
        self.admitted += 1
        self._on_admit(self.admitted)

    async def limited(self, answer: Delayed) -> None:
        self.reasons.append(answer.limit_reason)

    def waiting(self, answer: Delayed, seconds: float, attempt: int) -> None:
        self.waits.append((answer.verdict, attempt))
        self.seconds.append(seconds)
        self.waited.set()


async def fetch(
    fake: FakeStripe,
    pace: Recorder,
    *,
    stop: asyncio.Event | None = None,
    base: float = 0.0001,
    cap: float = 0.001,
    path: str = CHARGES,
) -> Page | Refused | None:
    async with StripeApi(fake.url, fake.key) as api:
        return await fetch_page(
            api,
            path,
            pace=pace,
            stop=stop or asyncio.Event(),
            backoff_base_seconds=base,
            backoff_cap_seconds=cap,
        )


async def test_a_page_at_once_needs_one_request() -> None:
    pace = Recorder()
    async with FakeStripe({"charge": 3}) as fake:
        answer = await fetch(fake, pace)
    assert isinstance(answer, Page)
    assert len(answer.objects) == 3
    assert (pace.admitted, pace.waits, pace.reasons) == (1, [], [])


async def test_everything_that_may_pass_is_waited_out() -> None:
    kinds: tuple[FaultKind, ...] = (
        "global-rate",
        "endpoint-rate",
        "lock_timeout",
        "conflict",
        "error",
        "unavailable",
        "dropped",
        "truncated",
        "html",
    )
    pace = Recorder()
    async with FakeStripe({"charge": 3}, faults=[Fault(kind, times=1) for kind in kinds]) as fake:
        answer = await fetch(fake, pace)
        # Drawn together, each counts down alone: the fake answers with the first that is left.
        assert set(fake.faults.happened) == set(kinds)
    assert isinstance(answer, Page)
    assert pace.admitted == len(pace.waits) + 1


async def test_each_fault_is_shown_with_its_attempt() -> None:
    pace = Recorder()
    async with FakeStripe({"charge": 1}, faults=[Fault("error", times=2)]) as fake:
        assert isinstance(await fetch(fake, pace), Page)
    assert pace.waits == [("server_error", 1), ("server_error", 2)]
    assert pace.admitted == 3


async def test_rate_limits_are_told_with_their_reason_and_have_no_limit_of_tries() -> None:
    pace = Recorder()
    async with FakeStripe({"charge": 1}, faults=[Fault("endpoint-rate", times=60)]) as fake:
        assert isinstance(await fetch(fake, pace), Page)
    assert pace.reasons == ["endpoint-rate"] * 60
    assert pace.admitted == 61


async def test_waits_grow_with_full_jitter_up_to_the_cap() -> None:
    pace = Recorder()
    async with FakeStripe({"charge": 1}, faults=[Fault("error", times=40)]) as fake:
        assert isinstance(await fetch(fake, pace, base=0.0005, cap=0.004), Page)
    bounds = [min(0.004, 0.0005 * 2**number) for number in range(40)]
    assert all(0 <= wait <= bound for wait, bound in zip(pace.seconds, bounds, strict=True))
    assert len(set(pace.seconds)) == 40
    # Of 37 draws from the whole interval some are in its lower and some in its upper half.
    assert min(pace.seconds[3:]) < 0.002 < max(pace.seconds[3:])


@pytest.mark.parametrize("kind", ["no_retry"])
async def test_what_stripe_forbids_to_repeat_is_not_repeated(kind: FaultKind) -> None:
    pace = Recorder()
    async with FakeStripe({"charge": 1}, faults=[Fault(kind, times=1)]) as fake:
        answer = await fetch(fake, pace)
        assert fake.traffic.requests() == 1
    assert isinstance(answer, Refused)
    assert (answer.verdict, answer.status) == ("refused", 500)
    assert pace.waits == []


async def test_a_refusal_is_not_repeated() -> None:
    pace = Recorder()
    async with FakeStripe({}) as fake:
        answer = await fetch(fake, pace, path="/v1/nothings")
    assert isinstance(answer, Refused)
    assert answer.verdict == "not_found"
    assert pace.admitted == 1


async def test_something_that_is_not_stripe_is_given_up() -> None:
    pace = Recorder()
    async with FakeStripe({"charge": 1}, faults=[Fault("html")]) as fake:
        answer = await fetch(fake, pace)
        assert fake.traffic.requests() == 5
    assert isinstance(answer, Refused)
    assert (answer.verdict, answer.scope) == ("unusable", "resource")
    assert "not JSON" in answer.message


async def test_outages_do_not_count_against_an_unusable_answer() -> None:
    faults = [Fault("error", times=30), Fault("html", times=4)]
    pace = Recorder()
    async with FakeStripe({"charge": 1}, faults=faults) as fake:
        assert isinstance(await fetch(fake, pace), Page)


async def test_stop_before_the_first_request_asks_nothing() -> None:
    pace, stop = Recorder(), asyncio.Event()
    stop.set()
    async with FakeStripe({"charge": 1}) as fake:
        assert await fetch(fake, pace, stop=stop) is None
        assert fake.traffic.requests() == 0
    assert pace.admitted == 0


async def test_stop_while_it_is_held_up_asks_nothing_more() -> None:
    stop = asyncio.Event()
    pace = Recorder(lambda number: stop.set() if number == 3 else None)
    async with FakeStripe({"charge": 1}, faults=[Fault("error")]) as fake:
        assert await fetch(fake, pace, stop=stop) is None
        assert fake.traffic.requests() == 2


async def test_stop_ends_a_wait_at_once() -> None:
    stop = asyncio.Event()
    pace = Recorder()
    async with FakeStripe({"charge": 1}, faults=[Fault("error")]) as fake:
        fetching = asyncio.create_task(fetch(fake, pace, stop=stop, base=3600, cap=3600))
        await pace.waited.wait()
        stop.set()
        assert await fetching is None
        assert fake.traffic.requests() == 1


async def test_a_request_under_way_is_let_finish() -> None:
    stop = asyncio.Event()
    body = b'{"object":"list","data":[],"has_more":false}'
    async with (
        RawServer(body, drip_seconds=0.001) as server,
        StripeApi(server.url, "sk_test_1") as api,
    ):
        fetching = asyncio.create_task(fetch_page(api, CHARGES, pace=Recorder(), stop=stop))
        await server.asked.wait()
        stop.set()
        assert isinstance(await fetching, Page)


async def test_it_can_be_cancelled_while_it_waits() -> None:
    pace = Recorder()
    async with FakeStripe({"charge": 1}, faults=[Fault("error")]) as fake:
        fetching = asyncio.create_task(fetch(fake, pace, base=3600, cap=3600))
        await pace.waited.wait()
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
