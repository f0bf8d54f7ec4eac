"""The settings: what is wrong with them, and what can be used in spite of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from relay.core.errors import ConfigError
from relay.doctor.check import Check, Findings
from relay.doctor.finding import Finding, failed, ok, warning
from relay.doctor.patient import Patient
from relay.settings import Address, Settings, load


def load_what_can_be(environ: Mapping[str, str]) -> tuple[Settings, tuple[ConfigError, ...]]:
    """The settings without those that are wrong, and what is wrong with these.

    Of two that disagree both are left out.
    """
    rest = dict(environ)
    complaints: list[ConfigError] = []
    while True:
        try:
            return load(rest), tuple(complaints)
        except ConfigError as error:
            complaints.append(error)
            named = re.findall(r"RELAY_[A-Z0-9_]+", f"{error.setting} {error.message}")
            guilty = [error.setting] if error.setting in rest else named
            left = {name: text for name, text in rest.items() if name not in guilty}
            if len(left) == len(rest):  # nothing of it is ours to take out
                return Settings(), tuple(complaints)
            rest = left


async def _valid(patient: Patient) -> Findings:
    return judge_valid([error.message for error in patient.complaints])


def judge_valid(complaints: Sequence[str]) -> list[Finding]:
    """One finding for each: `relay serve` would tell the first one only."""
    return [
        failed(each, "`relay serve` does not start with it; what follows was examined without it")
        for each in complaints
    ] or [ok("every RELAY_ variable is understood")]


async def _encryption_keys(patient: Patient) -> Findings:
    return judge_encryption_keys(len(patient.settings.encryption_keys))


def judge_encryption_keys(count: int) -> Finding:
    if count == 0:
        return warning(
            "RELAY_ENCRYPTION_KEYS is not set: no source can have a signing secret",
            "make one with `relay encryption-key new`, and give it to every process",
        )
    return ok("1 key" if count == 1 else f"{count} keys, the first one encrypts")


async def _public_url(patient: Patient) -> Findings:
    return judge_public_url(patient.settings.public_url)


def judge_public_url(url: str | None) -> Finding:
    if url is None:
        return warning(
            "RELAY_PUBLIC_URL is not set: the webhook URLs are shown without their host",
            "set it to what Stripe reaches the receiver at, such as https://relay.example.com",
        )
    parts = urlsplit(url)
    if parts.scheme != "https" and not Address(parts.hostname or "", 0).is_loopback:
        return warning(
            f"RELAY_PUBLIC_URL is {url}: Stripe sends live events to https:// only",
            "put TLS in front of the receiver, and https:// into RELAY_PUBLIC_URL",
        )
    return ok(url)


CHECKS = (
    Check("settings.valid", _valid),
    Check("settings.encryption_keys", _encryption_keys),
    Check("settings.public_url", _public_url),
)
