"""docs/resources.md says what the catalogue says."""

from __future__ import annotations

import re
from pathlib import Path

from relay.core.listings import LISTINGS, NOT_LISTED

PAGE = (Path(__file__).parents[1] / "docs" / "resources.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| `(/v1/[\w/]+)` \| (yes|no) \|(.*)\|$", re.MULTILINE)


def test_the_table_is_that_of_the_catalogue() -> None:
    assert [match.groups()[:3] for match in ROW.finditer(PAGE)] == [
        (listing.resource, listing.path, "yes" if listing.has_created_filter else "no")
        for listing in LISTINGS
    ]


def test_what_is_special_is_told() -> None:
    told = {match[1]: match[4].strip() for match in ROW.finditer(PAGE)}
    special = {
        listing.resource
        for listing in LISTINGS
        if listing.note
        or listing.passes != ((),)
        or listing.expansions
        or listing.created_field != "created"
        or not listing.has_livemode
        or not listing.has_created_filter
        or listing.name("object") != listing.resource
    }
    assert {resource for resource, text in told.items() if text} == special
    for resource in NOT_LISTED:
        assert f"`{resource}`" in PAGE
