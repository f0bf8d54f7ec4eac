"""Every page there is, and where to look at it.

A new page belongs into PAGES under its route, with an address for each thing that it can show; what
is in braces is of `Furnished.at`. A route that is no page of its own belongs into NO_PAGES.
"""

from __future__ import annotations

from typing import Any, Final

from relay.admin import Dashboard

PAGES: Final[dict[str, tuple[str, ...]]] = {
    "/": ("/",),
    "/login": ("/login",),
    "/events": (
        "/events",
        "/events?state=delivered&object=cus_Pdelivered&since=2h",
        "/events?event_id=evt_nobody",
    ),
    "/events/{inbox_id}": (
        "/events/{pending}",
        "/events/{retrying}",
        "/events/{dead}",
        "/events/{skipped}",
        "/events/{delivered}",
        "/events/{delivered}?did=replay&overtaken=yes",
    ),
    "/events/{inbox_id}/records": ("/events/{delivered}/records", "/events/{skipped}/records"),
    "/objects": ("/objects?id=cus_Pdead", "/objects?id=cus_nobody"),
    "/dead-letters": ("/dead-letters", "/dead-letters?error=nothing"),
    "/dead-letters/discard": (
        "/dead-letters/discard?error=no_route",
        "/dead-letters/discard?error=nothing",
    ),
    "/operator-log": ("/operator-log",),
    "/replays": ("/replays",),
    "/replays/new": (
        "/replays/new?of=dead-letters",
        "/replays/new?of=events&type=customer.*",
        "/replays/new?of=dead-letters&error=nothing",
    ),
    "/replays/{replay_id}": (
        "/replays/{replay_going_on}",
        "/replays/{replay_command_line}",
        "/replays/{replay_finished}",
        "/replays/{replay_cancelled}",
    ),
    "/sources": ("/sources",),
    "/sources/new": ("/sources/new",),
    "/sources/{name}": ("/sources/shop", "/sources/halted", "/sources/paused"),
    "/sources/{name}/edit": ("/sources/shop/edit",),
    "/snapshots": ("/snapshots",),
    "/snapshots/new": ("/snapshots/new?source=shop",),
    "/snapshots/{snapshot_id}": (
        "/snapshots/{snapshot_running}",
        "/snapshots/{snapshot_paused}",
        "/snapshots/{snapshot_failed}",
        "/snapshots/{snapshot_finished}",
    ),
}
PROBLEMS: Final = ("/nothing", "/events?state=nonsense", "/events/999999")
"""What goes wrong is told on a page, too."""
EMPTY: Final = (
    "/",
    "/events",
    "/dead-letters",
    "/operator-log",
    "/replays",
    "/snapshots",
    "/sources",
)
"""Pages that say so where there is nothing yet."""
OF_VIEWERS: Final = (
    "/",
    "/events/{dead}",
    "/snapshots",
    "/snapshots/{snapshot_running}",
    "/sources/shop",
    "/replays/new?of=dead-letters",
)
NO_PAGES: Final = {
    "/search": "leads to what was found",
    "/events/{inbox_id}/body": "is a file",
    "/static/{name}": "is a file",
    "/livez": "is for programs",
    "/readyz": "is for programs",
    "/metrics": "is for programs",
    "/schema": "is for programs",
}
_NO_PAGES_BELOW: Final = ("/api/", "/parts/", "/schema/")


def routes_of(dashboard: Dashboard) -> set[str]:
    """The routes that answer a GET, but for those of programs and parts of pages."""
    # The application is behind the gate, which knows no routes.
    app: Any = dashboard.app(())
    return {
        route.path_format
        for route in app._app.routes
        if "GET" in route.methods and not route.path_format.startswith(_NO_PAGES_BELOW)
    }
