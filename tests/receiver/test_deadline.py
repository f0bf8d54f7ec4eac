"""The timer behind every time-out of a connection, on a clock of the test."""

from __future__ import annotations

from typing import Any, cast

from relay.receiver.deadline import Deadline


class Clock:
    """What Deadline uses of an event loop."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Any]] = []
        self.armed = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Any) -> Clock.Timer:
        self.armed += 1
        timer = (when, call)
        self.timers.append(timer)
        return Clock.Timer(self, timer)

    class Timer:
        def __init__(self, clock: Clock, timer: tuple[float, Any]) -> None:
            self._clock, self._timer = clock, timer

        def cancel(self) -> None:
            if self._timer in self._clock.timers:
                self._clock.timers.remove(self._timer)

    def advance(self, seconds: float) -> None:
        """Fires what is due on the way, in order."""
        end = self.now + seconds
        while due := sorted((t for t in self.timers if t[0] <= end), key=lambda t: t[0]):
            self.now = max(self.now, due[0][0])
            self.timers.remove(due[0])
            due[0][1]()
        self.now = end


def make() -> tuple[Clock, Deadline, list[float]]:
    clock, struck = Clock(), list[float]()
    deadline = Deadline(cast("Any", clock), lambda: struck.append(clock.now))
    return clock, deadline, struck


def test_it_strikes_once() -> None:
    clock, deadline, struck = make()
    deadline.set(10)
    assert deadline.is_set
    clock.advance(9.9)
    assert struck == []
    clock.advance(100)
    assert struck == [110.0]
    assert not deadline.is_set


def test_it_strikes_at_the_last_moment_it_was_given() -> None:
    clock, deadline, struck = make()
    deadline.set(10)
    clock.advance(5)
    deadline.set(10)
    clock.advance(9)
    assert struck == []
    deadline.set(2)
    clock.advance(50)
    assert struck == [116.0]


def test_a_cleared_one_does_not_strike_and_can_be_set_again() -> None:
    clock, deadline, struck = make()
    deadline.set(10)
    deadline.clear()
    clock.advance(20)
    assert struck == []
    deadline.set(10)
    clock.advance(20)
    assert struck == [130.0]


def test_a_closed_one_leaves_no_timer() -> None:
    clock, deadline, struck = make()
    deadline.set(10)
    deadline.close()
    assert clock.timers == []
    clock.advance(20)
    assert struck == []


def test_moving_it_away_touches_no_timer() -> None:
    clock, deadline, struck = make()
    deadline.set(75)
    for _ in range(1000):
        deadline.clear()
        clock.advance(0.01)
        deadline.set(75)
    assert clock.armed == 1
    assert struck == []
