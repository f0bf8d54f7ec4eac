"""What a snapshotter shows of itself."""

from __future__ import annotations

from typing import get_args

from prometheus_client.core import Metric

from relay.core.listings import LISTINGS
from relay.metrics.families import counter, from_zero, gauge
from relay.snapshotter import Shared
from relay.stripe import DelayVerdict, RefusalVerdict

_VERDICTS = (*get_args(DelayVerdict), *get_args(RefusalVerdict))
_RESOURCES = tuple(listing.resource for listing in LISTINGS)

_REQUESTS = counter("relay_snapshotter_requests", "Requests to the Stripe API.")
_UNANSWERED = counter(
    "relay_snapshotter_requests_unanswered", "Requests that brought no page, by reason.", "reason"
)
_PAGES = counter("relay_snapshotter_pages", "Pages stored, by resource.", "resource")
_OBJECTS = counter("relay_snapshotter_objects", "Objects brought to the inbox.", "resource")
_FAILED = counter("relay_snapshotter_failures", "Times that a resource or a snapshot was given up.")
_ENDED = counter("relay_snapshotter_backends_ended", "Transactions of frozen readers ended.")
_HELD_UP = gauge(
    "relay_snapshotter_held_up", "1 while no page is asked for because the queue is long."
)


def of_snapshotter(shared: Shared) -> list[Metric]:
    counters = shared.counters
    return [
        _REQUESTS.filled(counters.requests),
        _UNANSWERED.filled(from_zero(counters.unanswered, _VERDICTS)),
        _PAGES.filled(from_zero(counters.pages, _RESOURCES)),
        _OBJECTS.filled(from_zero(counters.objects, _RESOURCES)),
        _FAILED.filled(counters.failures),
        _ENDED.filled(counters.backends_ended),
        _HELD_UP.filled(int(shared.is_held_up)),
    ]
