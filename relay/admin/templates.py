"""The templates of the pages: whatever is put into one is escaped, and cannot move anything.

What others sent to us is shown with control, direction and other invisible characters written as
escapes; what is unknown is a dash.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from relay import display
from relay.admin import assets
from relay.admin.access import Access

UNKNOWN: Final = "–"
# Stripe's words for an event of which a webhook endpoint has not taken delivery, or has.
STRIPE_WORDS: Final = {
    "pending": "pending",
    "retrying": "pending",
    "dead": "failed",
    "skipped": "not sent",
    "delivered": "delivered",
}


def cell(value: object) -> object:
    """One value for people."""
    if value is None or value in ((), []):
        return UNKNOWN
    if isinstance(value, Markup):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return display.moment(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return ", ".join(str(cell(each)) for each in value)
    return display.printable(str(value), keep="\n\t")


def link(path: str, **query: object) -> str:
    """A path with what is given of a query."""
    given = {name: str(value) for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given, errors='replace')}" if given else path


def _duration(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else display.duration(seconds)


def _count(value: int | None) -> str:
    """Thousands apart, by a blank that does not break."""
    if value is None:
        return UNKNOWN
    # As markup, or the blank would be shown as the escape of something invisible.
    return Markup(f"{value:,}".replace(",", "&nbsp;"))  # noqa: S704 - digits


def _number(value: float | None) -> str:
    """A rate: two digits that say something, and no more."""
    if value is None:
        return UNKNOWN
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


_environment: Final = Environment(
    loader=PackageLoader("relay.admin", "html"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=cell,
)
_environment.filters.update(
    count=_count, duration=_duration, number=_number, segment=lambda text: quote(text, safe="")
)
_environment.globals.update(asset=assets.url_of, link=link, stripe=STRIPE_WORDS, unknown=UNKNOWN)


def render(name: str, access: Access | None, **values: Any) -> str:
    """A page or a part of one, for whoever has this access."""
    return _environment.get_template(name).render(access=access, **values)
