"""How the sources are doing, and what to be warned about: judged by what has come of late."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec

from relay import display
from relay.admin.desk import Desk
from relay.admin.overview import SourceFigures
from relay.core.source import SourceConfig
from relay.store import events, traffic
from relay.store.failures import DATABASE_FAILURES
from relay.store.sources import Source
from relay.store.traffic import Activity, KeyState, Seen

_FRESH_SECONDS: Final = 4.0
_REST: Final = 10.0
# An endpoint that was moved to another version a month ago needs no word any more.
_NEWS: Final = timedelta(days=7)

Code = Literal[
    "halted",
    "no_key",
    "key_ends",
    "unverified",
    "api_version_changed",
    "several_api_versions",
    "wrong_mode",
    "both_modes",
    "silent",
]


class Caution(msgspec.Struct, frozen=True):
    """What to be warned about: a word that does not change, and a sentence for people."""

    code: Code
    text: str


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A version of Stripe's API that events came with, among those that were looked at."""

    api_version: str
    events: int
    first_at: datetime
    last_at: datetime


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How a source is doing; null is what is not known.

    ``last_event_at`` is when the last webhook came. It is exact for sources that have one among the
    newest 2,000 events; for others it is that of a sample, and may be a little too early.
    ``api_versions`` (the newest first), ``live_events`` and ``test_events`` are of some thousand
    events that were looked at.
    """

    pending: int | None = None
    retrying: int | None = None
    dead: int | None = None
    oldest_pending_seconds: float | None = None
    last_event_at: datetime | None = None
    api_versions: list[Version] | None = None
    live_events: int | None = None
    test_events: int | None = None
    good_keys: int | None = None
    old_key_ends_at: datetime | None = None


class Lately(msgspec.Struct, frozen=True):
    """What the inbox tells of all sources, as it was at a moment."""

    at: datetime
    activity: dict[str, Activity]
    seen: list[Seen]


class Pulse:
    """Looks at what has come, once for all who ask, and some seconds apart."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._one = asyncio.Lock()
        self._latest: Lately | None = None
        self._due = 0.0

    async def lately(self) -> Lately | None:
        """At most some seconds old; None when the database does not tell."""
        loop = asyncio.get_running_loop()
        async with self._one:
            began = loop.time()
            if began >= self._due:
                self._latest = await self._read()
                self._due = loop.time() + max(_FRESH_SECONDS, _REST * (loop.time() - began))
            return self._latest

    async def _read(self) -> Lately | None:
        try:
            async with self._desk.inbox() as connection:
                activity = await traffic.activity(connection)
                seen = await traffic.seen(connection)
                now = await events.now(connection)
        except DATABASE_FAILURES:
            return None
        return Lately(now, {each.source: each for each in activity}, seen)


def health_of(
    source: Source, figures: SourceFigures | None, lately: Lately | None, keys: KeyState | None
) -> Health:
    """What is known of one source."""
    found = Health()
    if figures is not None:
        found = msgspec.structs.replace(
            found,
            pending=figures.pending,
            retrying=figures.retrying,
            dead=figures.dead,
            oldest_pending_seconds=figures.oldest_pending_seconds,
        )
    if lately is not None:
        seen = _seen(source.config, lately)
        found = msgspec.structs.replace(
            found,
            last_event_at=_last(source.config, lately),
            api_versions=_versions(seen),
            live_events=sum(each.events for each in seen if each.livemode is True),
            test_events=sum(each.events for each in seen if each.livemode is False),
        )
    if keys is not None:
        ends = None if keys.ends_in is None else timedelta(seconds=keys.ends_in)
        found = msgspec.structs.replace(
            found,
            good_keys=keys.good,
            old_key_ends_at=None if ends is None else datetime.now(UTC) + ends,
        )
    return found


def cautions_of(source: Source, health: Health, lately: Lately | None) -> list[Caution]:
    """What to be warned about, the worst first."""
    found = []
    if source.state == "halted":
        why = f"{source.halted_code}: {source.halted_error}"
        found.append(Caution("halted", f"It stands still at an event and receives on: {why}."))
    found += _of_keys(health)
    if not source.sealed_secrets:
        text = "It does not verify signatures: whoever knows its URL can send it any event."
        found.append(Caution("unverified", text))
    found += _of_versions(health.api_versions or [])
    found += _of_modes(source.config, health)
    if lately is not None:
        found += _of_silence(source, health, lately)
    return found


def _seen(config: SourceConfig, lately: Lately) -> list[Seen]:
    return [each for each in lately.seen if each.source_id == config.source_id]


def _last(config: SourceConfig, lately: Lately) -> datetime | None:
    moments = [each.last for each in _seen(config, lately)]
    activity = lately.activity.get(config.name)
    if activity is not None and activity.last_at is not None:
        moments.append(activity.last_at)
    return max(moments, default=None)


def _versions(seen: Sequence[Seen]) -> list[Version]:
    found: dict[str, Version] = {}
    for each in seen:
        if each.api_version is None:
            continue
        so_far = found.get(each.api_version)
        found[each.api_version] = Version(
            api_version=each.api_version,
            events=each.events + (so_far.events if so_far else 0),
            first_at=min(each.first, so_far.first_at if so_far else each.first),
            last_at=max(each.last, so_far.last_at if so_far else each.last),
        )
    return sorted(found.values(), key=lambda version: version.last_at, reverse=True)


def _of_keys(health: Health) -> list[Caution]:
    if health.good_keys == 0:
        text = (
            "No key of its URL is good any more, so that everything is answered 401: make a new"
            " one, and enter the URL at Stripe."
        )
        return [Caution("no_key", text)]
    if health.old_key_ends_at is not None:
        text = (
            f"An old key of its URL ends at {display.moment(health.old_key_ends_at)}: by then the"
            " endpoint in Stripe has to have the URL with the new one."
        )
        return [Caution("key_ends", text)]
    return []


def _of_versions(versions: Sequence[Version]) -> list[Caution]:
    if len(versions) < 2:
        return []
    now, before = versions[:2]
    since = datetime.now(UTC) - _NEWS
    if before.last_at >= now.first_at and before.last_at > since:
        names = ", ".join(each.api_version for each in versions)
        text = f"Events come with several versions of Stripe's API, and differ in shape: {names}."
        return [Caution("several_api_versions", text)]
    if before.last_at < now.first_at and now.first_at > since:
        text = (
            f"Events come with API version {now.api_version} now; at"
            f" {display.moment(before.last_at)} it was {before.api_version}. Their objects may"
            " have another shape."
        )
        return [Caution("api_version_changed", text)]
    return []


def _of_modes(config: SourceConfig, health: Health) -> list[Caution]:
    live, test = health.live_events or 0, health.test_events or 0
    if config.mode == "any":
        if not (live and test):
            return []
        text = (
            f"Events of both modes come, {live} of live and {test} of test mode among those looked"
            " at, and go to the same topics: a mode in its settings has the others skipped."
        )
        return [Caution("both_modes", text)]
    other = test if config.mode == "live" else live
    if not other:
        return []
    text = (
        f"It takes {config.mode} events only, and {other} of {live + test} that were looked at are"
        " of the other mode: they are skipped."
    )
    return [Caution("wrong_mode", text)]


def _of_silence(source: Source, health: Health, lately: Lately) -> list[Caution]:
    age = (lately.at - source.created_at).total_seconds()
    found = lately.activity.get(source.config.name) or Activity(
        source=source.config.name, created=age, last=None, usual_gap=None
    )
    if health.last_event_at is not None:
        last = (lately.at - health.last_event_at).total_seconds()
        found = msgspec.structs.replace(found, last=last)
    if not found.is_silent:
        return []
    fix = "Look at the endpoint in Stripe: is it enabled, has it this URL, do its deliveries fail?"
    if found.last is None or found.usual_gap is None:
        text = f"It was made {display.duration(age)} ago and has received nothing yet. {fix}"
    else:
        text = (
            f"It has received nothing for {display.duration(found.last)}, and used to every"
            f" {display.duration(found.usual_gap)}. {fix}"
        )
    return [Caution("silent", text)]
