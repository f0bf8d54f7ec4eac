"""The Stripe API: whether the keys of the sources open it, and how their snapshots are doing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from relay.core.errors import ConfigError
from relay.core.listings import LISTINGS, Listing, listings_of
from relay.core.source import SourceConfig
from relay.core.stripe_key import KeyMode
from relay.doctor.check import Check, Findings
from relay.doctor.finding import Finding, failed, listed, ok, skipped, warning
from relay.doctor.patient import Patient
from relay.doctor.server import SCHEMA
from relay.store import snapshots, sources
from relay.store.sealing import Seal
from relay.stripe import Answer, Delayed, Refused, StripeApi

_SECONDS: Final = 5.0
NO_KEY: Final = skipped("no source has a Stripe key, which snapshots need")


class Access(msgspec.Struct, frozen=True):
    """What Stripe said to the key of a source; ``closed`` tells why it could not be asked."""

    source: str
    mode: str
    """Of the source: `live`, `test` or `any`."""
    resource: str = ""
    key_mode: KeyMode | None = None
    answer: Answer | None = None
    closed: str | None = None


async def _access(patient: Patient) -> Findings:
    found = await patient.ask(sources.list_api_users)
    asked = [_ask(patient, config, sealed) for config, sealed in found if sealed is not None]
    return judge_access(await asyncio.gather(*asked))


async def _ask(patient: Patient, config: SourceConfig, sealed: bytes) -> Access:
    """One object of one list: nothing is changed, and little is used of the rate limit."""
    listing = _listing(config)
    name = listing.name(config.route_by)
    try:
        key = Seal(patient.settings.encryption_keys).open(sealed).decode()
        api = StripeApi(patient.settings.stripe_api_base, key, timeout_seconds=_SECONDS)
    except ConfigError as error:
        return Access(config.name, config.mode, closed=error.message)
    async with api:
        parameters = (*listing.passes[0], ("limit", "1"))
        answer = await api.list_page(listing.path, parameters, created_field=listing.created_field)
        return Access(config.name, config.mode, name, api.mode, answer)


def _listing(config: SourceConfig) -> Listing:
    return next(iter(listings_of(config.resources, config.route_by)), LISTINGS[0])


def judge_access(found: Sequence[Access]) -> list[Finding]:
    """Of the sources that have a key."""
    findings = []
    for each in found:
        name = each.source
        if each.closed is not None:
            findings.append(failed(f"{name}: {each.closed}", _new_key(name)))
        elif each.key_mode is not None and each.mode not in ("any", each.key_mode):
            findings.append(
                failed(
                    f"{name} takes {each.mode} events, and its key is a {each.key_mode} one",
                    _new_key(name),
                )
            )
        elif isinstance(each.answer, Refused):
            reason = f"{name}, {each.resource}: {each.answer}"
            verdict = failed if each.answer.scope == "snapshot" else warning
            findings.append(verdict(reason, _new_key(name)))
        elif isinstance(each.answer, Delayed):
            findings.append(
                warning(
                    f"{name}: {each.answer}",
                    "look at the way to RELAY_STRIPE_API_BASE; snapshots wait by themselves",
                )
            )
    if findings:
        return findings
    return [
        ok(f"Stripe takes the keys of {listed([each.source for each in found])}")
        if found
        else NO_KEY
    ]


def _new_key(name: str) -> str:
    return f"relay source update {name} --stripe-api-key -, with a key that may read"


async def _snapshots(patient: Patient) -> Findings:
    return judge_snapshots(await patient.ask(snapshots.list_snapshots))


def judge_snapshots(found: Sequence[dict[str, Any]]) -> list[Finding]:
    """The newest snapshots, the newest first; of a source and its resources the last one counts."""
    findings, newer = [], set()
    for each in found:
        about = (each["source"], tuple(each["resources"]))
        if about in newer:
            continue
        newer.add(about)
        if each["state"] in ("failed", "paused"):
            why = f": {each['last_error']}" if each["last_error"] else ""
            findings.append(
                warning(
                    f"snapshot {each['id']} of {each['source']} is {each['state']}{why}",
                    f"relay snapshot resume {each['id']}, or cancel",
                )
            )
    return findings or [ok("none is failed or paused")]


CHECKS = (
    Check("stripe.access", _access, SCHEMA),
    Check("stripe.snapshots", _snapshots, SCHEMA),
)
