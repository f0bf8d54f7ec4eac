"""What the forwarder has done so far, for whoever shows it."""

from __future__ import annotations

from collections import Counter
from typing import Final

from relay.forwarder.outcome import Outcomes
from relay.histogram import Histogram
from relay.store.tables import QUEUE_EVENT

_BATCH_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5, 10, 20, 30)
_BATCH_ROWS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


class Counters:
    """Plain numbers since the start of the process; labels are codes of ours, never payload."""

    def __init__(self) -> None:
        self.batch_rows = Histogram(_BATCH_ROWS)
        """Rows of each batch that came to its end."""
        self.batch_seconds = Histogram(_BATCH_SECONDS)
        """Time of each of them from its note to its commit."""
        self.produce_seconds = Histogram(_BATCH_SECONDS)
        """The part of it from the first record to the last report."""
        self.batches_lost = 0
        """Batches that did not come to their end; their rows are tried again."""
        self.events_delivered = 0
        self.copies_delivered = 0
        """Copies of dead letters that are on their topic."""
        self.records = 0
        """Records acknowledged by Kafka and settled with a receipt, copies included."""
        self.skipped: Counter[str] = Counter()
        """Rows by reason."""
        self.dead: Counter[str] = Counter()
        """Events by error code."""
        self.retries: Counter[str] = Counter()
        """Rows put back to be tried again later, by the code of the reason."""
        self.children_dropped = 0
        """Elements of lists that were not fanned out, for want of an id."""
        self.sources_halted = 0
        self.batches_freed = 0
        """Batches of dead processes whose lanes were freed."""
        self.backends_ended = 0
        """Transactions of frozen processes that were ended."""

    def count(self, rows: int, outcomes: Outcomes, batch: float, produce: float) -> None:
        """Add a settled batch: what became of its rows, and its times in seconds."""
        self.batch_rows.observe(rows)
        self.batch_seconds.observe(batch)
        self.produce_seconds.observe(produce)
        for settled in outcomes.settled:
            if settled.skipped is not None:
                self.skipped[settled.skipped] += 1
            elif settled.row.kind == QUEUE_EVENT:
                self.events_delivered += 1
                self.records += len(settled.receipts)
            else:
                self.copies_delivered += 1
                self.records += len(settled.receipts)
        self.dead.update(death.code for death in outcomes.dead)
        self.retries.update(parking.code for parking in outcomes.parked)
        self.sources_halted += len(outcomes.halted)
