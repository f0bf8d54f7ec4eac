"""A check: one function under a name. To add one, write the function and put it in a list."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from relay.doctor.finding import Finding
from relay.doctor.patient import Patient

Findings = Finding | Sequence[Finding]


class Check(msgspec.Struct, frozen=True):
    """``needs`` are the checks that must not have failed (or been skipped) for this one to run."""

    name: str
    examine: Callable[[Patient], Awaitable[Findings]]
    needs: tuple[str, ...] = ()
