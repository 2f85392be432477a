"""Poisson arrivals of sessions at a fixed rate, however fast the servers answer (open loop). A bound on open
sessions keeps memory limited."""

import asyncio
from collections.abc import Callable, Coroutine

import numpy as np

SessionFactory = Callable[[int], Coroutine[None, None, None]]  # number of the session -> its coroutine


class PoissonArrivals:
    """Opens `rate_per_s` sessions a second on average, at most `max_open` at once; calls `on_skip` for each
    session beyond that."""

    def __init__(
        self,
        rate_per_s: float,
        max_open: int,
        rng: np.random.Generator,
        on_skip: Callable[[], None] = lambda: None,
    ):
        if rate_per_s <= 0:
            raise ValueError(f"sessions per second: {rate_per_s} is not positive")
        self._rate_per_s, self._max_open, self._rng, self._on_skip = rate_per_s, max_open, rng, on_skip
        self._open: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self.opened = 0

    async def run(self, session: SessionFactory, stopped: Callable[[], bool]) -> None:
        """Open sessions until `stopped()`, then wait for the open ones. Sessions handle the servers' errors
        themselves, so an exception from one is a bug of the simulator: it ends the run and is raised."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while not stopped() and self._error is None:
            await asyncio.sleep(max(0.0, min(due - clock(), 0.2)))
            while due <= clock() and not stopped():
                self._open_one(session)
                due += float(self._rng.exponential(1.0 / self._rate_per_s))
        await asyncio.gather(*self._open, return_exceptions=True)
        if self._error is not None:
            raise self._error

    def _open_one(self, session: SessionFactory) -> None:
        if len(self._open) >= self._max_open:
            self._on_skip()
            return
        task = asyncio.create_task(session(self.opened))
        self.opened += 1
        self._open.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._error = self._error or task.exception()
