"""Inbox → Kafka: claim lanes, transform, produce, settle."""

from relay.forwarder.forwarder import Forwarder, Shared
from relay.forwarder.recovery import Recovery

__all__ = ["Forwarder", "Recovery", "Shared"]
