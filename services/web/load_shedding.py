"""Load shedding: under overload some requests are refused at once and cheaply, and the others are answered in
time.

A standing queue is the sign of overload, as in CoDel (Nichols, Jacobson, "Controlling Queue Delay", 2012):
the *smallest* delay within an interval stays above a target, so that neither a burst nor a pause of the
machine counts. The queue here is the event loop's, and its delay is by how much a turn of the loop exceeds a
tick. The response is additive increase, multiplicative decrease of the number of concurrent requests (Chiu,
Jain 1989; Netflix's concurrency-limits). Slow dependencies do not matter, because a request that waits for
Redis does not block the loop.
"""

import asyncio
import time
from collections.abc import Callable

TICK_S = 0.01
INTERVAL_S = 0.1  # CoDel's
TICKS = 4  # fewest of an interval: one long pause is not a standing queue
FEWEST = 16  # concurrent requests that are always admitted: about 10 ms of work
MOST = 512  # concurrent requests, even while all wait for a dependency
DECREASE = 0.8


class ConcurrencyLimit:
    """A bound on concurrent requests: `if limit.open: limit.enter() … limit.leave()`. `watch` is called when
    their number reaches a new peak."""

    __slots__ = ("limit", "peak", "under_way", "watch")

    def __init__(self, watch: Callable[[], None]):
        self.under_way = 0
        self.peak = 0  # since the last interval
        self.limit = MOST
        self.watch = watch

    @property
    def open(self) -> bool:
        """Whether one more request may be admitted."""
        return self.under_way < self.limit

    def enter(self) -> None:
        """Count a request that begins."""
        self.under_way += 1
        if self.under_way > self.peak:
            self.peak = self.under_way
            self.watch()

    def leave(self) -> None:
        """Count a request that ends."""
        self.under_way -= 1

    def adapt(self, overloaded: bool) -> None:
        """Lower the limit after an interval with a standing queue; else raise it a little."""
        if overloaded:
            self.limit = max(FEWEST, int(min(self.limit, self.peak) * DECREASE))
        else:
            self.limit = min(MOST, self.limit + max(2, self.limit // 16))
        self.peak = self.under_way


class Shedder:
    """One limit for slates and one for events, so that events that wait for a hanging broker do not exclude
    slates.

    target_s: smallest lag of the loop within an interval that means overload; 0 turns shedding off.
    now_s, later: the clock and the event loop's `call_later`; by default the loop of the first request.
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
        """Tick while there are requests, so that an idle process sleeps."""
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
        """Measure by how much this turn of the loop exceeded a tick."""
        now_s = self._now_s()
        lag_s, self._ticked_s = now_s - self._ticked_s - TICK_S, now_s
        self._ticks += 1
        self._least_s = min(self._least_s, lag_s)
        if self._ticks >= TICKS and now_s - self._began_s >= INTERVAL_S:
            for limit in (self.slates, self.events):
                limit.adapt(overloaded=self._least_s > self._target_s)
            self._begin()
        busy = self.slates.peak or self.events.peak
        full = self.slates.limit == self.events.limit == MOST
        if not busy and full:
            self._ticking = False
        else:
            self._next()
