"""Traffic at a rate: sessions open at random moments (Poisson), whatever the servers do; a bound keeps
memory safe."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

Open = Callable[[int], Coroutine[Any, Any, None]]  # number of the session -> the session


class Traffic:
    """Opens `per_s` sessions a second, at most `most_open` at once; those beyond are skipped and told to
    `on_skip`."""

    def __init__(
        self,
        per_s: float,
        most_open: int,
        rng: np.random.Generator,
        on_skip: Callable[[], None] = lambda: None,
    ):
        if per_s <= 0:
            raise ValueError(f"sessions per second: {per_s} is not positive")
        self._per_s, self._most_open, self._rng, self._on_skip = per_s, most_open, rng, on_skip
        self._open: set[asyncio.Task[None]] = set()
        self._broken: BaseException | None = None
        self.opened = 0

    async def run(self, session: Open, stopped: Callable[[], bool]) -> None:
        """Open sessions until `stopped()`, then wait for those that are open. An error that escapes a
        session is a mistake of ours, not of the servers: it ends the traffic and is raised."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while not stopped() and self._broken is None:
            await asyncio.sleep(max(0.0, min(due - clock(), 0.2)))
            while due <= clock() and not stopped():
                self._open_one(session)
                due += float(self._rng.exponential(1.0 / self._per_s))
        await asyncio.gather(*self._open, return_exceptions=True)
        if self._broken is not None:
            raise self._broken

    def _open_one(self, session: Open) -> None:
        if len(self._open) >= self._most_open:
            self._on_skip()
            return
        task = asyncio.create_task(session(self.opened))
        self.opened += 1
        self._open.add(task)
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._broken = self._broken or task.exception()
