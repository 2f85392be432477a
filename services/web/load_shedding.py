"""Who is let in when more is asked than can be answered: refused at once and cheaply, or answered in time.

The sign of overload is a standing queue, as in CoDel (Nichols, Jacobson, "Controlling Queue Delay", 2012):
the *smallest* delay within an interval stays above a target, so a burst or a pause of the machine is none.
The queue here is the event loop's, and its delay is how much longer a turn of the loop takes than a tick. The
answer is additive increase, multiplicative decrease of how many requests may be under way (Chiu, Jain 1989;
Netflix's concurrency-limits). Slow dependencies don't matter: who waits for Redis holds no loop up.
"""

import asyncio
import time
from collections.abc import Callable

TICK_S = 0.01
INTERVAL_S = 0.1  # CoDel's
TICKS = 4  # of an interval, at least: one long pause is no standing queue
FEWEST = 16  # always let in: about 10 ms of work
MOST = 512  # under way at once, even while all wait for a dependency
DECREASE = 0.8


class ConcurrencyLimit:
    """A bound on requests under way: `if places.open: places.enter() … places.leave()`."""

    __slots__ = ("busiest", "limit", "under_way", "watch")

    def __init__(self, watch: "Callable[[], None]"):
        self.under_way = 0
        self.busiest = 0  # most under way since the last interval
        self.limit = MOST
        self.watch = watch

    @property
    def open(self) -> bool:
        """Whether one more may be let in."""
        return self.under_way < self.limit

    def enter(self) -> None:
        """One more is under way."""
        self.under_way += 1
        if self.under_way > self.busiest:
            self.busiest = self.under_way
            self.watch()

    def leave(self) -> None:
        """One is answered."""
        self.under_way -= 1

    def adapt(self, standing: bool) -> None:
        """After an interval: fewer while a queue stands, else a few more."""
        if standing:
            self.limit = max(FEWEST, int(min(self.limit, self.busiest) * DECREASE))
        else:
            self.limit = min(MOST, self.limit + max(2, self.limit // 16))
        self.busiest = self.under_way


class Shedder:
    """Places for slates, and places for events: who waits for a broker that hangs must not shut slates out.

    `target_s`: smallest lag of the loop within an interval that means overload; 0 never does. `now_s` and
    `later` are the clock and the event loop's `call_later`; the loop of the first request by default.
    """

    def __init__(
        self,
        target_s: float,
        now_s: Callable[[], float] = time.perf_counter,
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ):
        self.slates, self.events = ConcurrencyLimit(self._watch), ConcurrencyLimit(self._watch)
        self._target_s = target_s
        self._now_s = now_s
        self._later = later
        self._ticking = False
        self._ticked_s = self._began_s = 0.0
        self._ticks = 0
        self._least_s = float("inf")

    def _watch(self) -> None:
        """Tick while there is something to do: an idle process sleeps."""
        if self._ticking or not self._target_s:
            return
        self._ticking = True
        self._ticked_s = self._now_s()
        self._begin()
        self._next()

    def _next(self) -> None:
        later = self._later or asyncio.get_running_loop().call_later
        later(TICK_S, self._tick)

    def _begin(self) -> None:
        self._began_s, self._ticks, self._least_s = self._ticked_s, 0, float("inf")

    def _tick(self) -> None:
        """A turn of the loop: how much longer than a tick did it take?"""
        now_s = self._now_s()
        lag_s, self._ticked_s = now_s - self._ticked_s - TICK_S, now_s
        self._ticks += 1
        self._least_s = min(self._least_s, lag_s)
        if self._ticks >= TICKS and now_s - self._began_s >= INTERVAL_S:
            for places in (self.slates, self.events):
                places.adapt(standing=self._least_s > self._target_s)
            self._begin()
        busy = self.slates.busiest or self.events.busiest
        full = self.slates.limit == self.events.limit == MOST
        if not busy and full:
            self._ticking = False
        else:
            self._next()
