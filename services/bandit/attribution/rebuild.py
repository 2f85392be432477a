"""Count by hand what Redis forgot: a worker of all partitions that stops at the end of the log.

It may run beside the real workers: the positions that move with the sums let only one of them be right.
"""

import time
from collections.abc import Mapping

from models.recommender import Progress
from services import bootstrap
from services.bandit.attribution.app import BACK_OFF_S, POLL_S, pin_keeper, wall_ms
from services.bandit.attribution.decoder import Decoder
from services.bandit.attribution.worker import Deps, Pace, Worker
from services.errors import StalePositionError
from services.messages.events import EVENTS, EXPOSURES
from services.settings import Settings

PIN_PAUSE_S = 0.05  # between two reads of exposures: the margin after their loss has to pass anyway
Pairs = Mapping[tuple[str, int], int]


def rebuild(settings: Settings, progress: Progress) -> str:
    """Count up to the present end of the log; a sentence on what is counted. Raises UnavailableError."""
    everything = frozenset(range(settings.kafka_partitions))
    consumer, producer = bootstrap.consumer(settings), bootstrap.producer(settings)
    deps = Deps(
        consumer,
        bootstrap.log_admin(settings),
        bootstrap.sum_store(settings),
        bootstrap.decision_log(settings),
        Decoder(producer),
    )
    pace = Pace(safety_ms=round(settings.watermark_safety_s * 1_000))
    try:
        return count_to_the_end(Worker(deps, lambda: everything, wall_ms, pace), deps, everything, progress)
    finally:
        consumer.close()
        producer.close()


def rebuild_pins(settings: Settings, progress: Progress) -> str:
    """Put back every pin that still lives, and vouch for them; a sentence on how many. Raises
    UnavailableError."""
    everything = frozenset(range(settings.kafka_partitions))
    keeper = pin_keeper(settings, bootstrap.decision_log(settings), lambda: everything)
    try:
        while not keeper.step():
            done = settings.kafka_partitions - len(keeper.reading)
            progress(done, settings.kafka_partitions, "partitions with their pins")
            time.sleep(PIN_PAUSE_S)
    finally:
        keeper.consumer.close()
    return f"{keeper.put_back:,} put back; every unit without one is new"


def count_to_the_end(worker: Worker, deps: Deps, owned: frozenset[int], progress: Progress) -> str:
    """Step until every partition has been read to where the log ends now, and what is final is stored."""
    ends: Pairs = {}
    total, done = 1, 0
    while done < total:
        try:
            worker.step(POLL_S)
        except StalePositionError:  # a real worker was faster
            time.sleep(BACK_OFF_S)
            continue
        ends = ends or deps.consumer.ends((topic, i) for topic in (EXPOSURES, EVENTS) for i in owned)
        total, done = sum(ends.values()), _read(worker, ends)
        progress(done, total, "records counted")
    worker.settle()
    lost = f"; stopped by data loss: partitions {sorted(worker.lost)}" if worker.lost else ""
    return f"{len(worker.partitions)} partitions counted to the end of the log{lost}"


def _read(worker: Worker, ends: Pairs) -> int:
    """Records below `ends` that were read, counted before, or given up."""
    held = worker.partitions
    read = sum(min(e, held[i].reach[topic].position) for (topic, i), e in ends.items() if i in held)
    return read + sum(end for (_, index), end in ends.items() if index in worker.lost)
