"""The files that pages load: ours, from the package, and named after their content."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

TYPES: Final = {
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
CONTENT: Final = {name: (files("relay.admin") / "static" / name).read_bytes() for name in TYPES}


def url_of(name: str) -> str:
    """Where a page finds a file; another one after an upgrade."""
    return f"/static/{name}?{hashlib.sha256(CONTENT[name]).hexdigest()[:12]}"
