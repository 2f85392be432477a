"""The wall clock of every process. Durations are measured with `time.monotonic` instead."""

import time


def wall_ms() -> int:
    """Return the time in whole milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
