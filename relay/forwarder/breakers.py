"""Partitions that take nothing at the moment, so that their rows wait without being produced."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from relay.kafka import Failure

WHOLE_TOPIC = -1

# The first wait, and the longest: a partition that is back should not wait much longer.
_FIRST_SECONDS, _MOST_SECONDS = 2.0, 15.0
# After how many times of a trial the client is blamed, and how often that may double.
_PATIENCE_TRIALS, _MOST_DOUBLINGS = 2.0, 5


class Away(msgspec.Struct, frozen=True):
    """Why a record is not produced now.

    ``seconds`` is when it is worth looking again; None leaves it to the kind of failure.
    """

    failure: Failure
    seconds: float | None = None


class _Breaker(msgspec.Struct):
    failure: Failure
    seconds: float
    until: float
    silent_since: float
    patience_seconds: float
    on_trial: bool = False


class Breakers:
    """Per topic and partition, or for the ``WHOLE_TOPIC`` when no partition was told.

    When the time of a breaker is over, one record is let through as a trial. What becomes of it
    opens or closes the breaker again; all others keep waiting, because a trial that fails costs
    its batch the whole delivery time-out.

    ``clock`` gives seconds, any monotonic one; ``random`` floats in [0, 1). ``trial_seconds`` is
    the time in which a trial comes to its end.
    """

    def __init__(
        self, clock: Callable[[], float], random: Callable[[], float], trial_seconds: float
    ) -> None:
        self._clock = clock
        self._random = random
        self._trial_seconds = trial_seconds
        self._breakers: dict[str, dict[int, _Breaker]] = {}

    def __len__(self) -> int:
        """How many are open or on trial."""
        return sum(map(len, self._breakers.values()))

    def concern(self, topic: str) -> bool:
        """Whether the topic has any breaker: mostly not, and then nothing has to be asked."""
        return topic in self._breakers

    def open(
        self, topic: str, partition: int, failure: Failure, seconds: float | None = None
    ) -> None:
        """Open for ``seconds``; when none are given, twice as long as the last time."""
        now = self._clock()
        of_topic = self._breakers.setdefault(topic, {})
        known = of_topic.get(partition)
        if known is not None and not known.on_trial and now < known.until:
            return  # several batches have met the same fault
        if seconds is None:
            last = _FIRST_SECONDS / 2 if known is None else known.seconds
            seconds = min(last * 2, _MOST_SECONDS)
        until = now + seconds * (0.75 + self._random() / 2)
        since, patience = now, _PATIENCE_TRIALS * self._trial_seconds
        if known is not None:
            since, patience = known.silent_since, known.patience_seconds
        of_topic[partition] = _Breaker(failure, seconds, until, since, patience)

    def is_silent(self, topic: str, partition: int) -> bool:
        """Whether nothing has arrived there for so long that it may be the client's fault."""
        breaker = self._breakers.get(topic, {}).get(partition)
        return breaker is not None and self._has_run_out(breaker)

    def _has_run_out(self, breaker: _Breaker) -> bool:
        return self._clock() - breaker.silent_since >= breaker.patience_seconds

    def try_anew(self) -> None:
        """There will be a new client: everything may be tried at once.

        What was silent is waited for twice as long before it is blamed on the client again.
        """
        now, most = self._clock(), _PATIENCE_TRIALS * self._trial_seconds * 2**_MOST_DOUBLINGS
        for of_topic in self._breakers.values():
            for breaker in of_topic.values():
                if self._has_run_out(breaker):
                    breaker.patience_seconds = min(breaker.patience_seconds * 2, most)
                breaker.silent_since = now
                breaker.until = min(breaker.until, now)
                breaker.on_trial = False

    def close(self, topic: str, partition: int) -> None:
        """A record has arrived in the partition."""
        of_topic = self._breakers.get(topic)
        if of_topic is None:
            return
        of_topic.pop(partition, None)
        of_topic.pop(WHOLE_TOPIC, None)
        if not of_topic:
            del self._breakers[topic]

    def look(self, topic: str, partition: int) -> Away | None:
        """Why nothing can be produced there now, if so; otherwise it may be the trial."""
        of_topic = self._breakers.get(topic)
        breaker = None if of_topic is None else of_topic.get(partition)
        if breaker is None:
            return None
        now = self._clock()
        if now >= breaker.until:
            breaker.on_trial = True
            breaker.until = now + self._trial_seconds
            return None
        left = breaker.until - now
        return Away(breaker.failure, min(left, _FIRST_SECONDS) if breaker.on_trial else left)
