"""What the rig changes in a process that it starts: Python imports this file by itself.

The product has no switch for any of it. ``FAULTS_MUTANT`` names a rule to break (see
`tests/faults/mutants.py`); a body with the mark ends the process in the middle of its transform,
as a bug in a C extension would.
"""

from __future__ import annotations

import os
from importlib import import_module

MARK = b"end-the-process-in-its-transform"


def _patch_transform() -> None:
    from relay.core import transform
    from relay.core.source import SourceConfig

    whole = transform.transform

    def ending(event: transform.StoredEvent, source: SourceConfig) -> object:
        if event.body is not None and MARK in event.body:
            os._exit(139)
        return whole(event, source)

    transform.transform = ending  # type: ignore[assignment]


if os.environ.get("FAULTS_RIG"):
    _patch_transform()
    if mutant := os.environ.get("FAULTS_MUTANT"):
        import_module("tests.faults.mutants").apply(mutant)
