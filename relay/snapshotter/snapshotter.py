"""One reader of the Stripe API, a page per ``run_once``.

Take up a range → wait for a turn at Stripe → lock it → ask for its next page → store it.
"""

from __future__ import annotations

import asyncio
import random

import asyncpg
import msgspec
import structlog

from relay.core import backoff, scan
from relay.core.catalog import ALL_RESOURCES
from relay.core.listings import BY_PARENT_HINT, Listing, listing_of
from relay.core.source import SourceConfig
from relay.snapshotter.objects import event_of, is_wanted
from relay.snapshotter.reading import (
    Request,
    after_loss,
    after_page,
    can_split,
    next_parent,
    next_request,
)
from relay.snapshotter.shared import Account, Shared
from relay.snapshotter.turns import LONGEST_TURN_SECONDS, NotNowError, RateKey
from relay.store import inbox, ranges
from relay.store.engine import READ_COMMITTED
from relay.store.failures import is_outage
from relay.store.frozen import end_frozen
from relay.store.ranges import Range, Step
from relay.stripe import Delayed, Page, Refused, fetch_page

_log = structlog.get_logger("relay.snapshotter")

READERS = 4
"""How many ranges of one list are read at once: more only wait for the rate limit."""

_BACKOFF_SECONDS = (0.5, 30.0)
# An empty page that promises more, or an answer that is not the API's: asked for so often, then the
# resource fails, which can be seen.
_STALLS = 8
_LONGEST_WAIT_SECONDS = 3600.0
"""Whatever a Retry-After says."""


# Longer than any turn, and short where a process dies meanwhile.
_TAKEN_SECONDS = 5.0


class _Turn(msgspec.Struct, frozen=True):
    """A range that was taken up, and the request that it may send."""

    range_id: int
    account: Account | str
    path: str
    seconds: float
    """From now until the request may be sent."""


class _Outcome(msgspec.Struct, frozen=True):
    """What is left to do when the transaction of a page has ended."""

    ended: bool = False
    """The range did; perhaps its snapshot does."""
    too_fast: tuple[RateKey, str, str | None] | None = None
    """Stripe says so: of which rate, at which path, and the reason it gave."""


class Snapshotter:
    """One of the readers of a process; each holds at most one range."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def run_once(self) -> int:
        """Read one page; returns 1 when a range moved or learned something, else 0.

        Raises what the database raises; whatever was claimed is then free again, where it stood.
        """
        shared = self._shared
        if not await shared.has_room():
            return 0
        turn = await self._take_up()
        if turn is None:
            return 0
        if turn.seconds > LONGEST_TURN_SECONDS:
            async with shared.database.driver() as pg:
                await ranges.wait_for_turn(pg, turn.range_id, turn.seconds)
            return 1
        await asyncio.sleep(turn.seconds)
        async with shared.database.driver() as pg:
            idle_ms = int(shared.settings.frozen_after_seconds * 1000)
            await pg.execute(ranges.BEGIN.format(idle_ms=idle_ms))
            claimed = await ranges.claim(pg, turn.range_id)
            if claimed is None:
                await pg.execute("ROLLBACK")
                return 1
            try:
                outcome = await self._read_on(pg, claimed, turn)
                await pg.execute("COMMIT")
            except Exception as error:
                if not (is_outage(error) or pg.is_closed()):
                    await pg.execute("ROLLBACK")
                    await self._put_aside(pg, claimed, error)
                raise
        if outcome.too_fast is not None:
            await shared.turns.slow_down(*outcome.too_fast)
        if outcome.ended:
            await self._close_snapshots()
        return 1

    async def _take_up(self) -> _Turn | None:
        """The next range and the moment at which Stripe may be asked for its page.

        Not yet locked: who waits for a turn holds no connection that others may be waiting for.
        """
        shared = self._shared
        async with shared.database.driver() as pg:
            taken = await ranges.take_up(pg, _TAKEN_SECONDS)
        if taken is None:
            return None
        account = await shared.account(taken.source_id)
        if isinstance(account, str) or (listing := _listing(taken, account.config)) is None:
            return _Turn(taken.id, account, "", 0.0)  # which is told with the range in hand
        path = next_request(taken, listing, account.config.fan_out).path
        return _Turn(taken.id, account, path, await shared.turns.reserve(account.rate_key, path))

    async def _put_aside(self, pg: asyncpg.Connection, claimed: Range, error: Exception) -> None:
        """Have a range wait that cannot be read on, so that it does not hold up the others."""
        failures = claimed.failures + 1
        seconds = _backoff(failures)
        reason = f"{type(error).__name__}: {error}"
        await ranges.wait(pg, claimed, seconds=seconds, reason=reason, failures=failures)

    async def _read_on(self, pg: asyncpg.Connection, claimed: Range, turn: _Turn) -> _Outcome:
        """Ask for the next page of a range and store it."""
        shared = self._shared
        account = turn.account
        if isinstance(account, str):
            return await self._give_up(pg, claimed, account)
        if (account.api.mode == "live") != claimed.livemode:
            was = "live" if claimed.livemode else "test"
            return await self._give_up(
                pg,
                claimed,
                f"the snapshot was started with a {was} key, the source's is of"
                f" {account.api.mode} mode now: start another snapshot",
            )
        listing = _listing(claimed, account.config)
        if listing is None:
            return await self._fail(pg, claimed, _no_more(claimed, account.config))
        request = next_request(claimed, listing, account.config.fan_out)

        requests = 0

        async def admit(before: int) -> None:
            nonlocal requests
            if before or request.path != turn.path:
                await shared.turns.wait(account.rate_key, request.path)
            requests += 1
            shared.counters.requests += 1

        try:
            answer = await fetch_page(
                account.api,
                request.path,
                request.parameters,
                admit=admit,
                created_field=request.created_field,
                api_version=claimed.api_version,  # of its start, also after an upgrade
            )
        except NotNowError as late:
            await ranges.count_requests(pg, claimed, requests)
            await ranges.wait_for_turn(pg, claimed.id, late.seconds)
            return _Outcome()
        if not isinstance(answer, Page):
            await ranges.count_requests(pg, claimed, requests)
        match answer:
            case Page() as page:
                return await self._store(pg, claimed, listing, account, request, page, requests)
            case Delayed() as delay:
                return await self._delay(pg, claimed, account, request, delay)
            case Refused() as refusal:
                return await self._refuse(pg, claimed, listing, account, request, refusal)

    async def _store(
        self,
        pg: asyncpg.Connection,
        claimed: Range,
        listing: Listing,
        account: Account,
        request: Request,
        page: Page,
        requests: int,
    ) -> _Outcome:
        counters = self._shared.counters
        step, progress = after_page(claimed, request, page)
        if progress == "stalled":
            await ranges.count_requests(pg, claimed, requests)
            is_repeated = bool(page.objects)
            return await self._stalled(pg, claimed, listing, request, is_repeated=is_repeated)
        fresh = 0
        if not request.of_parents:
            # The answer's Date less the whole seconds it took.
            requested_at = page.date - int(page.seconds)
            fresh = await self._put(pg, claimed, page, requested_at, account.config)
        if progress == "on" and claimed.readers < READERS and can_split(claimed, listing):
            step = await self._split(pg, claimed, step)
        await ranges.step(pg, claimed, step, objects=fresh, requests=requests)
        counters.pages[claimed.resource] += 1
        counters.objects[claimed.resource] += fresh
        return _Outcome(ended=step.done)

    async def _put(
        self,
        pg: asyncpg.Connection,
        claimed: Range,
        page: Page,
        requested_at: int,
        source: SourceConfig,
    ) -> int:
        """Store the events of a page; how many the inbox did not have yet."""
        wanted = [listed for listed in page.objects if is_wanted(claimed, listed)]
        events = [event_of(claimed, listed, requested_at, source) for listed in wanted]
        stored = await inbox.put(pg, events)
        known = [event for event, is_new in zip(events, stored, strict=True) if not is_new]
        namesakes = await inbox.find_namesakes(pg, known)
        others = [
            event_of(claimed, listed, requested_at, source, told_apart=True)
            for listed, event in zip(wanted, events, strict=True)
            if event.event_id in namesakes
        ]
        return sum(stored) + sum(await inbox.put(pg, others))

    async def _split(self, pg: asyncpg.Connection, claimed: Range, step: Step) -> Step:
        halves = scan.split(step.at)
        if halves is not None and await ranges.add_reader(pg, claimed, halves[1], READERS):
            return msgspec.structs.replace(step, at=halves[0])
        return step

    async def _stalled(
        self,
        pg: asyncpg.Connection,
        claimed: Range,
        listing: Listing,
        request: Request,
        *,
        is_repeated: bool,
    ) -> _Outcome:
        """A page that leads no further and promises more is asked for again.

        An empty one from the second that it is in.
        """
        what = "the last page once more" if is_repeated else "an empty page"
        reason = f"Stripe goes on answering {what}, with has_more"
        failures = _in_a_row(claimed, reason)
        if failures > _STALLS:
            return await self._fail(pg, claimed, reason)
        if not is_repeated:
            await ranges.reposition(pg, claimed, after_loss(claimed, request, listing))
        seconds = _backoff(failures)
        await ranges.wait(pg, claimed, seconds=seconds, reason=reason, failures=failures)
        return _Outcome()

    async def _delay(
        self,
        pg: asyncpg.Connection,
        claimed: Range,
        account: Account,
        request: Request,
        answer: Delayed,
    ) -> _Outcome:
        """A page is asked for until it succeeds or fails for good; the range shows the wait."""
        self._shared.counters.unanswered[answer.verdict] += 1
        reason, failures = str(answer), claimed.failures + 1
        if answer.verdict == "unusable":
            reason = answer.message  # without the id of the request, so that it can recur
            failures = _in_a_row(claimed, reason)
            if failures > _STALLS:
                return await self._fail(pg, claimed, reason)
        limited = answer.verdict == "rate_limited"
        seconds = _backoff(failures)
        seconds = max(seconds, min(answer.retry_after or 0.0, _LONGEST_WAIT_SECONDS))
        await ranges.wait(
            pg, claimed, seconds=seconds, reason=reason, failures=failures, limited=limited
        )
        log = _log.debug if limited else _log.warning
        log(
            "snapshotter.waiting",
            snapshot=claimed.snapshot_id,
            resource=claimed.resource,
            reason=answer.code,
            seconds=round(seconds, 1),
            failures=failures,
        )
        if limited:
            return _Outcome(too_fast=(account.rate_key, request.path, answer.limit_reason))
        return _Outcome()

    async def _refuse(
        self,
        pg: asyncpg.Connection,
        claimed: Range,
        listing: Listing,
        account: Account,
        request: Request,
        answer: Refused,
    ) -> _Outcome:
        counters = self._shared.counters
        counters.unanswered[answer.verdict] += 1
        if answer.scope == "cursor":
            await ranges.reposition(pg, claimed, after_loss(claimed, request, listing))
            return _Outcome()
        if answer.scope == "snapshot":
            name = account.config.name
            fix = f"`relay source update {name} --stripe-api-key …` and resume the snapshot"
            return await self._give_up(pg, claimed, f"{answer}: {fix}")
        if not listing.is_about_parent(answer.param):
            return await self._fail(pg, claimed, str(answer))
        if not claimed.parents:
            return await self._fail(pg, claimed, f"{answer}: {BY_PARENT_HINT}")
        step = next_parent(claimed, claimed.at)  # it was deleted, and its list with it
        await ranges.reposition(pg, claimed, step)
        return _Outcome(ended=step.done)

    async def _fail(self, pg: asyncpg.Connection, claimed: Range, reason: str) -> _Outcome:
        """Give a resource up; the others of its snapshot go on."""
        self._shared.counters.failures += 1
        _log.error(
            "snapshotter.resource_failed",
            snapshot=claimed.snapshot_id,
            resource=claimed.resource,
            error=reason,
        )
        await ranges.fail_resource(pg, claimed, reason)
        return _Outcome(ended=True)

    async def _give_up(self, pg: asyncpg.Connection, claimed: Range, reason: str) -> _Outcome:
        self._shared.counters.failures += 1
        _log.error("snapshotter.failed", snapshot=claimed.snapshot_id, error=reason)
        await ranges.fail_snapshot(pg, claimed, reason)
        await ranges.fail_resource(pg, claimed, reason)
        return _Outcome(ended=True)

    async def _close_snapshots(self) -> None:
        async with (
            self._shared.database.driver() as pg,
            pg.transaction(isolation=READ_COMMITTED),
        ):
            ended = await ranges.close_snapshots(pg)
        for snapshot_id, state in ended:
            _log.info("snapshotter.ended", snapshot=snapshot_id, state=state)


def _listing(claimed: Range, source: SourceConfig) -> Listing | None:
    """How to list what a range reads, unless its source was changed so that it cannot be read."""
    if {ALL_RESOURCES, claimed.resource} & set(source.resources):
        return listing_of(claimed.resource, source.route_by)
    return None


def _no_more(claimed: Range, source: SourceConfig) -> str:
    """Why a resource cannot be read since its source was changed."""
    if listing_of(claimed.resource, source.route_by) is None:
        return f"{claimed.resource} cannot be listed: was the routing changed?"
    return (
        f"{claimed.resource} is not in the schema of source {source.name} any more: add it with"
        f" `relay source update {source.name} --schema …` and resume the snapshot"
    )


def _in_a_row(claimed: Range, reason: str) -> int:
    """How often the page in hand has failed for this reason, this time included.

    Others before it, of a Stripe that is down for an hour, say nothing about it.
    """
    return claimed.failures + 1 if claimed.last_error == reason else 1


def _backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    spread = random.random()  # noqa: S311 - spreads load, protects nothing
    return backoff.delay(failures, spread, *_BACKOFF_SECONDS)


class Upkeep:
    """What has to be done now and then beside the readers."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def run_once(self) -> int:
        """Ends frozen readers and closes snapshots that nobody has closed; returns how many."""
        shared = self._shared
        async with shared.database.driver() as pg:
            seconds = shared.settings.frozen_after_seconds
            frozen, ended = await end_frozen(pg, "relay.snapshot_range", seconds)
            async with pg.transaction(isolation=READ_COMMITTED):
                closed = await ranges.close_snapshots(pg)
        shared.counters.backends_ended += ended
        if frozen:
            _log.warning("snapshotter.frozen", backends=frozen, ended=ended)
        return ended + len(closed)
