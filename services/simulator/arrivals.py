"""Poisson arrivals of sessions at a fixed rate, however fast the servers answer (open loop). A bound on open
sessions keeps memory limited."""

import asyncio
from collections.abc import Callable, Coroutine

import numpy as np

SessionFactory = Callable[[int], Coroutine[None, None, None]]  # number of the session -> its coroutine


async def poisson_arrivals(
    session: SessionFactory,
    stopped: Callable[[], bool],
    rng: np.random.Generator,
    *,
    rate_per_s: float,
    max_open: int,
    on_skip: Callable[[], None],
) -> int:
    """Open `rate_per_s` sessions a second on average until `stopped()`, then wait for the open ones. Returns
    how many were opened.

    At most `max_open` are open at once; `on_skip` is called for each one beyond that. Sessions handle the
    servers' errors themselves, so an exception from one is a bug of the simulator: it ends the run and is
    raised in an ExceptionGroup.
    """
    clock = asyncio.get_running_loop().time
    running: set[asyncio.Task[None]] = set()
    opened, due = 0, clock()
    async with asyncio.TaskGroup() as group:
        while not stopped():
            await asyncio.sleep(max(0.0, min(due - clock(), 0.2)))
            while due <= clock() and not stopped():
                due += float(rng.exponential(1.0 / rate_per_s))
                if len(running) >= max_open:
                    on_skip()
                    continue
                task = group.create_task(session(opened))
                running.add(task)
                task.add_done_callback(running.discard)
                opened += 1
    return opened
