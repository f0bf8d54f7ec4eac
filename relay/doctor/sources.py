"""The sources: whether they can receive, are forwarded, and hear from Stripe at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from relay.core.errors import ConfigError
from relay.core.source import SourceConfig
from relay.doctor.check import Check, Findings
from relay.doctor.finding import Finding, failed, listed, ok, skipped, span, warning
from relay.doctor.patient import Patient
from relay.doctor.routes import Meeting, meetings
from relay.doctor.server import REACHABLE, SCHEMA
from relay.store import sources, status, traffic, vitals
from relay.store.sealing import Seal
from relay.store.sources import Source
from relay.store.traffic import Activity, KeyState

OLD_PENDING_SECONDS: Final = 300.0
CLOCK_WARNING_SECONDS: Final = 5.0

NO_SOURCE: Final = skipped("there is no source")


async def _present(patient: Patient) -> Findings:
    return judge_present([each.name for each in await patient.ask(sources.list_configs)])


def judge_present(names: Sequence[str]) -> Finding:
    if not names:
        return warning(
            "there is no source: every request is answered 401",
            "relay source create NAME --signing-secret whsec_…",
        )
    return ok(listed(names))


async def _verification(patient: Patient) -> Findings:
    return judge_verification(await patient.ask(sources.list_verifiers))


def judge_verification(found: Sequence[tuple[SourceConfig, tuple[bytes, ...]]]) -> Finding:
    """Sources with their sealed secrets."""
    blind = [config.name for config, sealed in found if not sealed]
    if blind:
        return warning(
            f"no signing secret, so that whoever knows the URL can send any event: {listed(blind)}",
            f"relay source update {blind[0]} --signing-secret whsec_…",
        )
    return ok("every source verifies signatures") if found else NO_SOURCE


class Sealed(msgspec.Struct, frozen=True):
    """How the secrets of sources stand to the keys: names of sources."""

    closed: frozenset[str]
    """No key opens one of them."""
    old: frozenset[str]
    """Another key than the first one does."""
    secrets: int


async def _secrets(patient: Patient) -> Findings:
    keys = patient.settings.encryption_keys
    return judge_secrets(try_keys(await patient.ask(sources.list_all), keys), keys=len(keys))


def try_keys(found: Iterable[Source], keys: Sequence[str]) -> Sealed:
    """Open every secret, with the first key alone and with all of them."""
    closed, old, count = set(), set(), 0
    every, first = Seal(keys), Seal(keys[:1])
    for source in found:
        sealed = [*source.sealed_secrets]
        sealed += [] if source.sealed_stripe_key is None else [source.sealed_stripe_key]
        count += len(sealed)
        for each in sealed:
            if not _opens(every, each):
                closed.add(source.config.name)
            elif not _opens(first, each):
                old.add(source.config.name)
    return Sealed(frozenset(closed), frozenset(old), count)


def _opens(seal: Seal, sealed: bytes) -> bool:
    try:
        seal.open(sealed)
    except ConfigError:
        return False
    return True


def judge_secrets(found: Sealed, *, keys: int) -> list[Finding]:
    """``keys`` is how many there are in RELAY_ENCRYPTION_KEYS."""
    if found.secrets == 0:
        return [ok("no source has a secret")]
    if keys == 0:
        return [
            failed(
                "RELAY_ENCRYPTION_KEYS is not set, and only a key opens the secrets of"
                f" {listed(sorted(found.closed))}: what arrives there is answered 503",
                "set the key that they were stored with",
            )
        ]
    findings = []
    if found.closed:
        findings.append(
            failed(
                f"no key in RELAY_ENCRYPTION_KEYS opens the secrets of"
                f" {listed(sorted(found.closed))}: what arrives there is answered 503",
                "add the key that they were stored with at the end of the list, or set the secrets"
                " anew (relay source update)",
            )
        )
    if found.old:
        findings.append(
            warning(
                f"the secrets of {listed(sorted(found.old))} are stored with an older key",
                "relay encryption-key rotate; then the older key can go",
            )
        )
    return findings or [ok("the first key opens every secret")]


async def _topics(patient: Patient) -> Findings:
    return judge_topics(meetings(await patient.ask(sources.list_configs)))


def judge_topics(found: Sequence[Meeting]) -> list[Finding]:
    """Order per key holds within one source only."""
    return [
        warning(
            f"{each.one} and {each.other} both write to {listed(sorted(each.topics))}: order per"
            " object holds within one source only",
            f"give one of them topics of its own: relay source update {each.other} --topic-prefix"
            " …; or let consumers tell them apart by the header _source",
        )
        for each in found
    ] or [ok("no two sources share a topic of records")]


async def _stopped(patient: Patient) -> Findings:
    return judge_stopped(await patient.ask(status.lag))


def judge_stopped(lag: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Rows of ``status.lag``."""
    findings = [
        failed(
            f"{row['source']} stands still at an event ({row['halted_code']}:"
            f" {row['halted_error']}); it receives",
            "relay events show it; then relay events skip or retry, or relay source resume"
            f" {row['source']}",
        )
        for row in lag
        if row["halted_at"] is not None
    ]
    paused = [row["source"] for row in lag if row["paused_at"] is not None]
    if paused:
        findings.append(
            warning(
                f"paused, so that it is received and not forwarded: {listed(paused)}",
                f"relay source resume {paused[0]}",
            )
        )
    return findings or [ok("every source is forwarded") if lag else NO_SOURCE]


async def _keys(patient: Patient) -> Findings:
    return judge_keys(await patient.ask(traffic.keys))


def judge_keys(found: Sequence[KeyState]) -> list[Finding]:
    closed = [each.source for each in found if not each.good]
    if closed:
        return [
            failed(
                f"no valid key, so that everything is answered 401: {listed(closed)}",
                f"relay source rotate-key {closed[0]}, and enter the new URL at Stripe",
            )
        ]
    ending = [f"{k.source} (in {span(k.ends_in)})" for k in found if k.ends_in is not None]
    if ending:
        return [
            warning(
                f"an old key expires for {listed(ending)}",
                "make sure that the endpoint in Stripe has the URL with the new key by then",
            )
        ]
    return [ok("every source has a key that does not expire") if found else NO_SOURCE]


async def _silent(patient: Patient) -> Findings:
    return judge_silent(await patient.ask(traffic.activity))


def judge_silent(found: Sequence[Activity]) -> list[Finding]:
    """Silent for a day, and for ten times as long as is usual for it."""
    findings = []
    fix = "look at the endpoint in Stripe: is it enabled, has it this URL, do its deliveries fail?"
    for each in found:
        if not each.is_silent:
            continue
        if each.last is None or each.usual_gap is None:
            reason = f"{each.source} was made {span(each.created)} ago and received nothing yet"
        else:
            reason = (
                f"{each.source} has received nothing for {span(each.last)}, and used to every"
                f" {span(each.usual_gap)}"
            )
        findings.append(warning(reason, fix))
    return findings or [ok("each is heard from as usual") if found else NO_SOURCE]


async def _backlog(patient: Patient) -> Findings:
    reasons = await patient.ask(status.waiting_reasons)
    return judge_backlog(await patient.ask(status.lag), reasons)


def judge_backlog(
    lag: Sequence[Mapping[str, Any]], reasons: Sequence[Mapping[str, Any]]
) -> list[Finding]:
    """Rows of ``status.lag`` and ``status.waiting_reasons``. Sources that stand still are told
    of elsewhere.
    """
    codes: dict[str, list[str]] = {}
    for row in reasons:
        codes.setdefault(row["source"], []).append(f"{row['code']}: {row['error']}")
    late = [
        row
        for row in lag
        if (row["oldest_pending_seconds"] or 0) > OLD_PENDING_SECONDS
        and row["paused_at"] is None
        and row["halted_at"] is None
    ]
    return [
        warning(
            f"{row['pending'] + row['retrying']} events of {row['source']} wait, the oldest for"
            f" {span(row['oldest_pending_seconds'])}"
            + "".join(f" ({each})" for each in codes.get(row["source"], [])[:1]),
            "relay status tells what they wait for; is a process with the role forwarder running?",
        )
        for row in late
    ] or [ok(f"nothing waits for longer than {span(OLD_PENDING_SECONDS)}")]


async def _dead_letters(patient: Patient) -> Findings:
    return judge_dead_letters(await patient.ask(status.lag))


def judge_dead_letters(lag: Sequence[Mapping[str, Any]]) -> Finding:
    dead = [f"{row['source']} ({row['dead']})" for row in lag if row["dead"]]
    if dead:
        return warning(
            f"open dead letters: {listed(dead)}",
            "relay dlq list tells why; then relay dlq replay or discard",
        )
    return ok("no dead letter is open")


async def _services(patient: Patient) -> Findings:
    if await patient.database.is_pooled():
        return skipped("behind a pooler only those are seen that are in a transaction right now")
    return judge_services([row["name"] for row in await patient.ask(status.services)])


def judge_services(names: Sequence[str]) -> Finding:
    """The application names of connections, `relay-<roles>`."""
    if not names:
        return warning("no process of relay is connected to this database", "start `relay serve`")
    return ok(listed(names))


async def _clock(patient: Patient) -> Findings:
    offset = await patient.ask(vitals.clock_offset_seconds)
    try:
        tolerances = [each.tolerance for each in await patient.ask(sources.list_configs)]
    except Exception:  # without the schema, or the right to read it, the default is the measure
        tolerances = []
    return judge_clock(offset, tolerance=min(tolerances, default=300))


def judge_clock(offset: float, *, tolerance: int) -> Finding:
    """``offset`` is PostgreSQL's clock minus ours; ``tolerance`` the smallest of the sources."""
    ahead = "ahead of" if offset > 0 else "behind"
    reason = f"PostgreSQL's clock is {span(abs(offset))} {ahead} this machine's"
    fix = "synchronise both machines (NTP): signatures are judged by PostgreSQL's clock"
    if abs(offset) > tolerance / 2:
        return failed(f"{reason}, and signatures are good for {tolerance} s only", fix)
    if abs(offset) > CLOCK_WARNING_SECONDS:
        return warning(reason, fix)
    return ok(f"{abs(offset):.3f} s {ahead} this machine's")


CHECKS = (
    Check("clock.offset", _clock, REACHABLE),
    Check("sources.present", _present, SCHEMA),
    Check("sources.verification", _verification, SCHEMA),
    Check("sources.secrets", _secrets, SCHEMA),
    Check("sources.keys", _keys, SCHEMA),
    Check("sources.topics", _topics, SCHEMA),
    Check("sources.stopped", _stopped, SCHEMA),
    Check("sources.silent", _silent, SCHEMA),
    Check("sources.backlog", _backlog, SCHEMA),
    Check("sources.dead_letters", _dead_letters, SCHEMA),
    Check("services.running", _services, SCHEMA),
)
