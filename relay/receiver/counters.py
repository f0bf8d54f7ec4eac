"""What the receiver has done so far, for whoever shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from relay.histogram import Histogram

_COMMIT_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5, 10)
_COMMIT_ROWS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500)


class Counters:
    """Plain numbers since the start of the process; nothing in them comes from a client."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[int, str]] = Counter()
        """Answers by status and word, e.g. `(200, "stored")`, `(400, "signature_wrong")`."""
        self.dead: Counter[str] = Counter()
        """Events that were dead on arrival and answered as such, by error code."""
        self.body_bytes = 0
        """Bytes of the bodies that were read to the end."""
        self.connections = 0
        """Open connections now."""
        self.commit_rows = Histogram(_COMMIT_ROWS)
        """Rows of each transaction that committed, duplicates included."""
        self.commit_seconds = Histogram(_COMMIT_SECONDS)
        """Time that each of them took, its repeats included."""
        self.stored = 0
        """Rows that were new to the inbox, whether their sender was still there or not."""
        self.duplicates = 0
        """Rows that the inbox held already."""
        self.batches_retried = 0
        """Repeats after a deadlock, a serialisation failure or a change of the schema."""
        self.batches_failed = 0
        """Batches answered with 503."""
        self.refused_samples = 0
        """Refused requests that were kept for people to look at."""
        self.refused_dropped = 0
        """Those that were not, because enough were kept already."""
        self.crashes = 0
        """Requests that ran into a bug of ours."""

    def count_commit(self, fresh: Sequence[bool], seconds: float) -> None:
        """Add a committed transaction: which of its rows were new, and how long it took."""
        stored = sum(fresh)
        self.stored += stored
        self.duplicates += len(fresh) - stored
        self.commit_rows.observe(len(fresh))
        self.commit_seconds.observe(seconds)
