"""The page about snapshots names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from relay.settings import VARIABLES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "snapshots.md").read_text("utf-8")


def test_settings_exist() -> None:
    known = {variable.name for variable in VARIABLES}
    assert set(re.findall(r"RELAY_[A-Z_]+", PAGE)) <= known
