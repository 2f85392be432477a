"""Buckets of several processes: what one takes, another one has not."""

import multiprocessing
from multiprocessing.queues import SimpleQueue

from services.web.rate_limit import CELLS, Moments, RateLimiter

spawning = multiprocessing.get_context("spawn")


def take(moments: Moments, told: "SimpleQueue[int]") -> None:
    """How many tokens are left for a process that comes later."""
    buckets = RateLimiter(1.0, 10.0, moments)
    told.put(sum(buckets.wait_s("anna", 50.0) == 0.0 for _ in range(20)))


def test_a_process_that_starts_later_finds_what_is_left() -> None:
    moments: Moments = Moments(cells=spawning.RawArray("d", CELLS))
    mine = RateLimiter(1.0, 10.0, moments)
    for _ in range(7):
        assert mine.wait_s("anna", 50.0) == 0.0
    told = spawning.SimpleQueue()
    child = spawning.Process(target=take, args=(moments, told))
    child.start()
    assert told.get() == 3
    child.join()
    assert mine.wait_s("anna", 50.0) == 1.0
    assert mine.wait_s("bert", 50.0) == 0.0
