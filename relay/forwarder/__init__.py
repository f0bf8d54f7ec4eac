"""Inbox → Kafka: claim lanes, transform, produce, settle."""

from relay.forwarder.counters import Counters as ForwarderCounters
from relay.forwarder.forwarder import Forwarder, Shared
from relay.forwarder.recovery import Recovery

__all__ = ["Forwarder", "ForwarderCounters", "Recovery", "Shared"]
