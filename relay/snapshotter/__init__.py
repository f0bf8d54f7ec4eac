"""Snapshots: from the Stripe API into the inbox, a page at a time.

There is no Kafka here: what a page brings are ordinary events of the inbox, which the forwarder
relays like those that came by webhook.
"""

from relay.snapshotter.shared import Counters, Shared
from relay.snapshotter.snapshotter import Snapshotter, Upkeep

__all__ = ["Counters", "Shared", "Snapshotter", "Upkeep"]
