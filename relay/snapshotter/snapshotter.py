"""One reader of the Stripe API: claim a range → ask for a page → store it, per ``run_once``."""

from __future__ import annotations

import random

import asyncpg
import msgspec
import structlog

from relay.core import backoff, scan
from relay.core.listings import Listing, listing_of
from relay.snapshotter.objects import event_of, is_wanted
from relay.snapshotter.reading import (
    Request,
    after_loss,
    after_page,
    can_split,
    next_parent,
    next_request,
)
from relay.snapshotter.shared import Account, NotNowError, Shared
from relay.store import inbox, queue, ranges
from relay.store.engine import READ_COMMITTED
from relay.store.ranges import Range, Step
from relay.stripe import Delayed, Page, Refused, fetch_page

_log = structlog.get_logger("relay.snapshotter")

READERS = 4
"""How many ranges of one list are read at once: more only wait for the rate limit."""

_BACKOFF_SECONDS = (0.5, 30.0)
# An empty page that promises more, or an answer that is not the API's: asked for so often, then the
# resource fails, which can be seen.
_STALLS = 8


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
        async with shared.database.driver() as pg:
            idle_ms = int(shared.settings.frozen_after_seconds * 1000)
            await pg.execute(ranges.BEGIN.format(idle_ms=idle_ms))
            claimed = await ranges.claim(pg)
            if claimed is None:
                await pg.execute("ROLLBACK")
                return 0
            finished = await self._read_on(pg, claimed)
            await pg.execute("COMMIT")
        if finished:
            await self._close_snapshots()
        return 1

    async def _read_on(self, pg: asyncpg.Connection, claimed: Range) -> bool:
        """Ask for the next page of a range and store it; whether the range has ended."""
        shared = self._shared
        account = await shared.account(claimed.source_id)
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
        listing = listing_of(claimed.resource, account.config.route_by)
        if listing is None:
            return await self._fail(
                pg, claimed, f"{claimed.resource} cannot be listed: was the routing changed?"
            )
        request = next_request(claimed, listing, account.config.fan_out)

        async def admit() -> None:
            await shared.admit(account, request.path)
            await ranges.count_request(pg, claimed)

        try:
            answer = await fetch_page(
                account.api,
                request.path,
                request.parameters,
                admit=admit,
                created_field=request.created_field,
            )
        except NotNowError as late:
            await ranges.wait(
                pg, claimed, seconds=late.seconds, reason="its turn by the rate limit", failed=False
            )
            return False
        match answer:
            case Page() as page:
                return await self._store(pg, claimed, listing, account, request, page)
            case Delayed() as delay:
                return await self._delay(pg, claimed, account, request, delay)
            case Refused() as refusal:
                return await self._refuse(pg, claimed, listing, request, refusal)

    async def _store(
        self,
        pg: asyncpg.Connection,
        claimed: Range,
        listing: Listing,
        account: Account,
        request: Request,
        page: Page,
    ) -> bool:
        counters = self._shared.counters
        step, progress = after_page(claimed, request, page)
        if progress == "stalled":
            return await self._stalled(pg, claimed, listing, request)
        fresh = 0
        if not request.of_parents:
            # The answer's Date less the seconds it took: not after the request was sent.
            requested_at = page.date - int(page.seconds)
            events = [
                event_of(claimed, listed, requested_at, account.config)
                for listed in page.objects
                if is_wanted(claimed, listed)
            ]
            fresh = sum(await inbox.put(pg, events))
        if progress == "on" and can_split(claimed, listing):
            step = await self._split(pg, claimed, step)
        await ranges.step(pg, claimed, step, objects=fresh)
        counters.pages[claimed.resource] += 1
        counters.objects[claimed.resource] += fresh
        return step.done

    async def _split(self, pg: asyncpg.Connection, claimed: Range, step: Step) -> Step:
        halves = scan.split(step.at)
        if halves is not None and await ranges.add_reader(pg, claimed, halves[1], READERS):
            return msgspec.structs.replace(step, at=halves[0])
        return step

    async def _stalled(
        self, pg: asyncpg.Connection, claimed: Range, listing: Listing, request: Request
    ) -> bool:
        """An empty page that promises more is asked for again, from the second that it is in."""
        if claimed.failures >= _STALLS:
            return await self._fail(
                pg, claimed, "Stripe goes on answering an empty page that says has_more"
            )
        await ranges.reposition(pg, claimed, after_loss(claimed, request, listing))
        seconds = backoff.delay(claimed.failures + 1, random.random(), *_BACKOFF_SECONDS)  # noqa: S311
        await ranges.wait(pg, claimed, seconds=seconds, reason="an empty page", failed=True)
        return False

    async def _delay(
        self,
        pg: asyncpg.Connection,
        claimed: Range,
        account: Account,
        request: Request,
        answer: Delayed,
    ) -> bool:
        """A page is asked for until it succeeds or fails for good; the range shows the wait."""
        shared = self._shared
        shared.counters.unanswered[answer.verdict] += 1
        if answer.verdict == "unusable" and claimed.failures >= _STALLS:
            return await self._fail(pg, claimed, str(answer))
        limited = answer.verdict == "rate_limited"
        if limited:
            await shared.slow_down(account, request.path, answer.limit_reason)
        # Spreads load, protects nothing.
        seconds = backoff.delay(claimed.failures + 1, random.random(), *_BACKOFF_SECONDS)  # noqa: S311
        seconds = max(seconds, answer.retry_after or 0.0)
        await ranges.wait(
            pg, claimed, seconds=seconds, reason=str(answer), failed=True, limited=limited
        )
        log = _log.debug if limited else _log.warning
        log(
            "snapshotter.waiting",
            snapshot=claimed.snapshot_id,
            resource=claimed.resource,
            reason=answer.code,
            seconds=round(seconds, 1),
            failures=claimed.failures + 1,
        )
        return False

    async def _refuse(
        self,
        pg: asyncpg.Connection,
        claimed: Range,
        listing: Listing,
        request: Request,
        answer: Refused,
    ) -> bool:
        counters = self._shared.counters
        counters.unanswered[answer.verdict] += 1
        if answer.scope == "cursor":
            await ranges.reposition(pg, claimed, after_loss(claimed, request, listing))
            return False
        if answer.scope == "snapshot":
            return await self._give_up(pg, claimed, str(answer))
        if claimed.parents and listing.parent and answer.param == listing.parent.parameter:
            step = next_parent(claimed, claimed.at)  # it was deleted, and its list with it
            await ranges.reposition(pg, claimed, step)
            return step.done
        return await self._fail(pg, claimed, str(answer))

    async def _fail(self, pg: asyncpg.Connection, claimed: Range, reason: str) -> bool:
        """Give a resource up; the others of its snapshot go on."""
        self._shared.counters.failures += 1
        _log.error(
            "snapshotter.resource_failed",
            snapshot=claimed.snapshot_id,
            resource=claimed.resource,
            error=reason,
        )
        await ranges.fail_resource(pg, claimed, reason)
        return True

    async def _give_up(self, pg: asyncpg.Connection, claimed: Range, reason: str) -> bool:
        self._shared.counters.failures += 1
        _log.error("snapshotter.failed", snapshot=claimed.snapshot_id, error=reason)
        await ranges.fail_snapshot(pg, claimed, reason)
        await ranges.fail_resource(pg, claimed, reason)
        return True

    async def _close_snapshots(self) -> None:
        async with (
            self._shared.database.driver() as pg,
            pg.transaction(isolation=READ_COMMITTED),
        ):
            ended = await ranges.close_snapshots(pg)
        for snapshot_id, state in ended:
            _log.info("snapshotter.ended", snapshot=snapshot_id, state=state)


class Upkeep:
    """What has to be done now and then beside the readers."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def run_once(self) -> int:
        """Ends frozen readers and closes snapshots that nobody has closed; returns how many."""
        shared = self._shared
        async with shared.database.driver() as pg:
            frozen = await ranges.find_frozen(pg, shared.settings.frozen_after_seconds)
            ended = sum([await queue.end_backend(pg, pid) for pid in frozen])
            async with pg.transaction(isolation=READ_COMMITTED):
                closed = await ranges.close_snapshots(pg)
        shared.counters.backends_ended += ended
        if frozen:
            _log.warning("snapshotter.frozen", backends=frozen, ended=ended)
        return ended + len(closed)
