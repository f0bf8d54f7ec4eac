"""What the forwarder has done so far, for whoever shows it."""

from __future__ import annotations

from collections import Counter

from relay.forwarder.outcome import Outcomes


class Counters:
    """Plain numbers since the start of the process; labels are codes of ours, never payload."""

    def __init__(self) -> None:
        self.batches = 0
        """Batches that were settled."""
        self.batch_seconds = 0.0
        """Time from the note of each batch to its commit, together."""
        self.batches_lost = 0
        """Batches that did not come to their end; their rows are tried again."""
        self.events_delivered = 0
        self.records = 0
        """Records acknowledged by Kafka and settled with a receipt."""
        self.events_skipped: Counter[str] = Counter()
        """By reason."""
        self.events_dead: Counter[str] = Counter()
        """By error code."""
        self.events_put_aside: Counter[str] = Counter()
        """By error code; they are tried again later."""
        self.sources_halted = 0
        self.lanes_freed = 0
        """Batches of dead processes whose lanes were freed."""
        self.backends_ended = 0
        """Transactions of frozen processes that were ended."""

    def count(self, outcomes: Outcomes, seconds: float) -> None:
        """Add a settled batch."""
        self.batches += 1
        self.batch_seconds += seconds
        for settled in outcomes.settled:
            if settled.skipped is None:
                self.events_delivered += 1
                self.records += len(settled.receipts)
            else:
                self.events_skipped[settled.skipped] += 1
        self.events_dead.update(death.code for death in outcomes.dead)
        self.events_put_aside.update(parking.code for parking in outcomes.parked)
        self.sources_halted += len(outcomes.halted)
