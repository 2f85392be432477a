"""Loops of `ringside rebuild`: count and restore pins up to the present end of the log.

They may run while the real workers run, because the positions stored with the sums let only one writer win.
"""

import time
from collections.abc import Mapping

from models.recommender import ProgressCallback
from services.bandit.attribution.pin_recovery import PinKeeper
from services.bandit.attribution.worker import Worker
from services.errors import StalePositionError
from services.messages.events import EVENTS, EXPOSURES
from services.ports.event_log import EventConsumer

POLL_S = 0.2
RETRY_S = 0.5
PIN_PAUSE_S = 0.05  # between two reads of exposures: the margin after their loss has to pass anyway
Pairs = Mapping[tuple[str, int], int]


def count_to_the_end(
    worker: Worker, consumer: EventConsumer, owned: frozenset[int], progress: ProgressCallback
) -> str:
    """Step until every partition is read to the present end of the log and all final sums are stored."""
    ends: Pairs = {}
    total, done = 1, 0
    while done < total:
        try:
            worker.step(POLL_S)
        except StalePositionError:  # a real worker was faster
            time.sleep(RETRY_S)
            continue
        ends = ends or consumer.end_offsets((topic, i) for topic in (EXPOSURES, EVENTS) for i in owned)
        total, done = sum(ends.values()), _read(worker, ends)
        progress(done, total, "records counted")
    worker.settle()
    lost = f"; stopped by data loss: partitions {sorted(worker.lost)}" if worker.lost else ""
    return f"{len(worker.partitions)} partitions counted to the end of the log{lost}"


def restore_pins(keeper: PinKeeper, partitions: int, progress: ProgressCallback) -> str:
    """Step until the pins of all partitions are complete."""
    while not keeper.step():
        progress(partitions - len(keeper.reading), partitions, "partitions with their pins")
        time.sleep(PIN_PAUSE_S)
    return f"{keeper.put_back:,} put back; every unit without one is new"


def _read(worker: Worker, ends: Pairs) -> int:
    """Records below `ends` that were read, counted before, or given up."""
    held = worker.partitions
    read = sum(min(e, held[i].reach[topic].position) for (topic, i), e in ends.items() if i in held)
    return read + sum(end for (_, index), end in ends.items() if index in worker.lost)
