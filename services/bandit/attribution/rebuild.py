"""The loops of `ringside rebuild`: count, and restore pins, up to the present end of the log.

They may run while the real workers run, because the positions stored with the sums let only one writer win.
"""

import time
from collections.abc import Mapping

from models.recommender import ProgressCallback
from services.bandit.attribution.pin_recovery import PinRecovery
from services.bandit.attribution.worker import Worker
from services.errors import StalePositionError
from services.messages.events import EVENTS, EXPOSURES
from services.ports.event_log import EventConsumer

POLL_S = 0.2
RETRY_S = 0.5
PIN_PAUSE_S = 0.05  # between two reads of exposures; the safety margin has to pass anyway


def count_to_the_end(
    worker: Worker, consumer: EventConsumer, owned: frozenset[int], progress: ProgressCallback
) -> str:
    """Step until every partition is read to the present end of the log and all final sums are stored."""
    ends: dict[tuple[str, int], int] = {}
    total, done = 1, 0
    while done < total:
        try:
            worker.step(POLL_S)
        except StalePositionError:  # a real worker was faster
            time.sleep(RETRY_S)
            continue
        ends = ends or consumer.end_offsets((topic, i) for topic in (EXPOSURES, EVENTS) for i in owned)
        total, done = sum(ends.values()), _done(worker, ends)
        progress(done, total, "records counted")
    worker.commit()
    lost = f"; stopped by data loss: partitions {sorted(worker.lost)}" if worker.lost else ""
    return f"{len(worker.partitions)} partitions counted to the end of the log{lost}"


def restore_pins(recovery: PinRecovery, partitions: int, progress: ProgressCallback) -> str:
    """Step until the pins of all partitions are complete."""
    while not recovery.step():
        progress(partitions - len(recovery.restoring), partitions, "partitions with their pins")
        time.sleep(PIN_PAUSE_S)
    return f"{recovery.restored_pins:,} restored; every unit without one is new"


def _done(worker: Worker, ends: Mapping[tuple[str, int], int]) -> int:
    """Return the number of records below `ends` that are read, or that a lost partition skips."""
    loaded = worker.partitions
    read = sum(
        min(end, loaded[i].progress[topic].position) for (topic, i), end in ends.items() if i in loaded
    )
    return read + sum(end for (_, index), end in ends.items() if index in worker.lost)
