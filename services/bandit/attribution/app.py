"""`ringside attribution`: join exposures with events into sums, and restore lost pins, until SIGTERM."""

import logging
import time
from collections.abc import Callable
from contextlib import closing

from models.recommender import ProgressCallback
from services import bootstrap
from services.bandit.attribution.decoder import Decoder
from services.bandit.attribution.metrics import AttributionMetrics
from services.bandit.attribution.pin_recovery import PinRecovery
from services.bandit.attribution.rebuild import count_to_the_end, restore_pins
from services.bandit.attribution.worker import Deps, Pace, Worker
from services.errors import StalePositionError, UnavailableError
from services.messages.events import EVENTS, EXPOSURES
from services.ports.event_log import EventConsumer, EventProducer
from services.ports.state import DecisionLog, SumStore
from services.runtime.clock import wall_ms
from services.runtime.process import stop_on_signal
from services.runtime.worker_loop import REPORT_S, WorkerLoop
from services.settings import Settings

logger = logging.getLogger(__name__)

PROCESS = "attribution"
GROUP = "ringside-bandit"  # the process was called `bandit`; the group keeps its positions under that name
POLL_S = 0.2
RETRY_S = 0.5
PINS_EVERY_S = 1.0  # between two checks for missing pins


def run(settings: Settings) -> None:
    """Count until SIGTERM. Raises ConfigurationError if the broker forgets exposures before they mature."""
    bootstrap.configure_logging(settings, PROCESS)
    bootstrap.check_window(settings)
    stop = stop_on_signal(settings, PROCESS)
    member, owned = connect(settings)
    with bootstrap.metered(settings, PROCESS) as meters:
        decisions = bootstrap.decision_log(settings, history=False)
        sums = meters.sums(bootstrap.sum_store(settings))
        metrics = AttributionMetrics(meters.registry)
        with (
            closing(meters.producer(bootstrap.producer(settings))) as producer,
            closing(meters.consumer(member)) as consumer,
            closing(bootstrap.consumer(settings)) as pin_consumer,
        ):
            worker = make_worker(settings, consumer, producer, sums, decisions, owned)
            recovery = make_recovery(settings, pin_consumer, decisions, owned)
            WorkerLoop(
                "counting",
                Step(worker, recovery),
                retry_s=RETRY_S,
                retried=(UnavailableError, StalePositionError),  # another worker may have begun a partition
                metered=meters.step,
                observe=lambda: metrics.update(worker, wall_ms()),
                report=Report(worker),
            ).run(stop)


class Step:
    """One step of the loop: read and count, and check for lost pins every PINS_EVERY_S."""

    def __init__(self, worker: Worker, recovery: PinRecovery):
        self._worker, self._recovery, self._pins_at = worker, recovery, 0.0

    def __call__(self) -> None:
        """Raises UnavailableError and StalePositionError; the next turn repeats what failed."""
        self._worker.step(POLL_S)
        if time.monotonic() >= self._pins_at:
            complete = self._recovery.step()
            self._pins_at = time.monotonic() + (PINS_EVERY_S if complete else 0.0)


class Report:
    """One line a minute for the operator."""

    def __init__(self, worker: Worker):
        self._worker, self._read_before = worker, 0

    def __call__(self) -> None:
        """Log the rate of the last minute and the state of all partitions."""
        worker, partitions = self._worker, self._worker.partitions.values()
        logger.info(
            "%.0f records/s, %d partitions, lag %d records, %d records later than the watermark, "
            "%d partitions stopped by data loss",
            (worker.records_read - self._read_before) / REPORT_S,
            len(partitions),
            sum(partition.lag for partition in partitions),
            sum(partition.overtaken for partition in partitions),
            len(worker.lost),
        )
        self._read_before = worker.records_read


def rebuild(settings: Settings, progress: ProgressCallback) -> str:
    """Count all partitions up to the present end of the log; a sentence on the result. Raises
    UnavailableError."""
    everything = frozenset(range(settings.kafka_partitions))
    sums, decisions = bootstrap.sum_store(settings), bootstrap.decision_log(settings)
    with closing(bootstrap.producer(settings)) as producer, closing(bootstrap.consumer(settings)) as consumer:
        worker = make_worker(settings, consumer, producer, sums, decisions, lambda: everything)
        return count_to_the_end(worker, consumer, everything, progress)


def rebuild_pins(settings: Settings, progress: ProgressCallback) -> str:
    """Restore every pin that has not expired, and mark pins as complete; a sentence on how many. Raises
    UnavailableError."""
    everything = frozenset(range(settings.kafka_partitions))
    with closing(bootstrap.consumer(settings)) as consumer:
        decisions = bootstrap.decision_log(settings)
        recovery = make_recovery(settings, consumer, decisions, lambda: everything)
        return restore_pins(recovery, settings.kafka_partitions, progress)


def make_worker(
    settings: Settings,
    consumer: EventConsumer,
    producer: EventProducer,
    sums: SumStore,
    decisions: DecisionLog,
    owned: Callable[[], frozenset[int]],
) -> Worker:
    """Compose the worker; `producer` writes its dead letters."""
    deps = Deps(consumer, bootstrap.log_admin(settings), sums, decisions, Decoder(producer))
    return Worker(deps, owned, wall_ms, Pace(safety_ms=round(settings.watermark_safety_s * 1_000)))


def make_recovery(
    settings: Settings, consumer: EventConsumer, decisions: DecisionLog, owned: Callable[[], frozenset[int]]
) -> PinRecovery:
    """Compose the recovery of pins, whose consumer is not that of the worker."""
    pins, safety_ms = bootstrap.pin_store(settings), round(settings.watermark_safety_s * 1_000)
    return PinRecovery(pins, consumer, decisions, owned, settings.kafka_partitions, wall_ms, safety_ms)


def connect(settings: Settings) -> tuple[EventConsumer, Callable[[], frozenset[int]]]:
    """A consumer and the partitions that it owns: those in `bandit_partitions`, or its share of the group."""
    if settings.bandit_partitions:
        return bootstrap.consumer(settings), lambda: settings.bandit_partitions
    member = bootstrap.group_consumer(settings, GROUP, (EXPOSURES, EVENTS))

    def owned() -> frozenset[int]:
        pairs = member.assignment()
        return frozenset(index for topic, index in pairs if topic == EXPOSURES and (EVENTS, index) in pairs)

    return member, owned
