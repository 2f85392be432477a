"""The process: one worker, its partitions, a loop that outlives broker and Redis."""

import logging
import threading
import time
from collections.abc import Callable

from services import bootstrap
from services.bandit.attribution.decoder import Decoder
from services.bandit.attribution.metrics import BanditMetrics
from services.bandit.attribution.pin_recovery import PinKeeper
from services.bandit.attribution.worker import Deps, Pace, Worker
from services.errors import ConfigurationError, StalePositionError, UnavailableError
from services.messages.events import EVENTS, EXPOSURES
from services.ports.event_log import EventConsumer
from services.ports.state import DecisionLog
from services.runtime.process import stop_on_signal
from services.settings import Settings

logger = logging.getLogger(__name__)

GROUP = "ringside-bandit"
POLL_S = 0.2
BACK_OFF_S = 0.5
REPORT_S = 60.0
PINS_EVERY_S = 1.0  # between two looks whether pins are missing


def run(settings: Settings) -> None:
    """Count until SIGTERM. Raises ConfigurationError if the broker can't keep what the rules must wait
    for."""
    bootstrap.configure_logging(settings, "bandit")
    bootstrap.check_window(settings)
    stop = stop_on_signal(settings, "bandit")
    consumer, owned = connect(settings)
    with bootstrap.metered(settings, "bandit") as meters:
        producer = meters.producer(bootstrap.producer(settings))
        deps = Deps(
            consumer=meters.consumer(consumer),
            admin=bootstrap.log_admin(settings),
            store=meters.tally(bootstrap.sum_store(settings)),
            decisions=bootstrap.decision_log(settings, history=False),
            decoder=Decoder(producer),
        )
        safety_ms = round(settings.watermark_safety_s * 1_000)
        worker = Worker(deps, owned, wall_ms, Pace(safety_ms=safety_ms))
        keeper = pin_keeper(settings, deps.decisions, owned)
        try:
            loop(worker, stop, meters, keeper)
        finally:
            keeper.consumer.close()
            consumer.close()
            producer.close()


def pin_keeper(settings: Settings, decisions: DecisionLog, owned: Callable[[], frozenset[int]]) -> PinKeeper:
    """A keeper of pins on real adapters, with a consumer of its own."""
    return PinKeeper(
        bootstrap.pin_store(settings),
        bootstrap.consumer(settings),
        decisions,
        owned,
        settings.kafka_partitions,
        wall_ms,
        round(settings.watermark_safety_s * 1_000),
    )


def loop(
    worker: Worker, stop: threading.Event, meters: "bootstrap.Meters", keeper: PinKeeper | None = None
) -> None:
    """Step after step; what is unavailable, or was begun by another worker at the same moment, is tried
    again."""
    report_at, read_before, metrics = time.monotonic() + REPORT_S, 0, BanditMetrics(meters.registry)
    pins_at = 0.0
    while not stop.is_set():
        try:
            with meters.step():
                worker.step(POLL_S)
                if keeper is not None and time.monotonic() >= pins_at:
                    pins_at = time.monotonic() + (PINS_EVERY_S if keeper.step() else 0.0)
        except (UnavailableError, StalePositionError) as error:
            logger.warning("%s; trying again", error)
            stop.wait(BACK_OFF_S)
        metrics.look(worker, wall_ms())
        if time.monotonic() >= report_at:
            report_at, read_before = time.monotonic() + REPORT_S, report(worker, read_before)


def report(worker: Worker, read_before: int) -> int:
    """One line a minute for the operator; returns the number of records read so far."""
    partitions = worker.partitions.values()
    logger.info(
        "%.0f records/s, %d partitions, %d behind, %d overtaken, %d stopped by data loss",
        (worker.records_read - read_before) / REPORT_S,
        len(partitions),
        sum(partition.lag for partition in partitions),
        sum(partition.overtaken for partition in partitions),
        len(worker.lost),
    )
    return worker.records_read


def connect(settings: Settings) -> tuple[EventConsumer, Callable[[], frozenset[int]]]:
    """A consumer and who owns what: the partitions that the settings name, or the share of a group member."""
    if settings.bandit_partitions:
        mine = partitions_of(settings.bandit_partitions, settings.kafka_partitions)
        return bootstrap.consumer(settings), lambda: mine
    member = bootstrap.group_consumer(settings, GROUP, (EXPOSURES, EVENTS))

    def both() -> frozenset[int]:
        pairs = member.assignment()
        return frozenset(index for topic, index in pairs if topic == EXPOSURES and (EVENTS, index) in pairs)

    return member, both


def partitions_of(text: str, count: int) -> frozenset[int]:
    """Partitions named by ranges.

    >>> sorted(partitions_of("0-2,5", 8))
    [0, 1, 2, 5]
    """
    try:
        ends = [(int(part.split("-")[0]), int(part.split("-")[-1])) for part in text.split(",")]
    except ValueError as error:
        raise ConfigurationError(f"RINGSIDE_BANDIT_PARTITIONS: {text!r} is not like '0-3,7'") from error
    found = frozenset(index for low, high in ends for index in range(low, high + 1))
    if not found or not found <= frozenset(range(count)):
        raise ConfigurationError(
            f"RINGSIDE_BANDIT_PARTITIONS: {text!r} names none, or one that is not in 0-{count - 1}"
        )
    return found


def wall_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
