"""The process: every topic worth keeping, to Parquet, until SIGTERM; then what waits is written too."""

import logging
import threading
import time
from concurrent.futures import TimeoutError as FutureTimeoutError

from services import bootstrap
from services.errors import UnavailableError
from services.lake.tables import KINDS
from services.lake.worker import Deps, LakeWorker
from services.runtime.process import stop_on_signal
from services.settings import Settings

logger = logging.getLogger(__name__)

GROUP = "ringside-lake"
POLL_S = 0.5
BACK_OFF_S = 1.0
REPORT_S = 60.0


def run(settings: Settings) -> None:
    """Write until SIGTERM."""
    bootstrap.configure_logging(settings, "lake")
    stop = stop_on_signal(settings, "lake")
    with bootstrap.metered(settings, "lake") as meters:
        consumer = meters.consumer(bootstrap.group_consumer(settings, GROUP, tuple(KINDS)))
        producer = meters.producer(bootstrap.producer(settings))
        deps = Deps(
            consumer=consumer,
            producer=producer,
            admin=bootstrap.log_admin(settings),
            files=meters.lake(bootstrap.lake_files(settings)),
            features=bootstrap.feature_store(settings),
            owned=consumer.assignment,
        )
        flush_ms = round(settings.lake_flush_s * 1_000)
        worker = LakeWorker(deps, wall_ms, flush_ms=flush_ms, most=settings.lake_flush_records)
        try:
            loop(worker, stop, meters)
            worker.close()
        finally:
            consumer.close()
            producer.close()


def loop(worker: LakeWorker, stop: threading.Event, meters: "bootstrap.Meters") -> None:
    """Step after step; what is unavailable, or a full disk, is tried again."""
    report_at = time.monotonic() + REPORT_S
    while not stop.is_set():
        try:
            with meters.step():
                worker.step(POLL_S)
        except (UnavailableError, OSError, FutureTimeoutError) as error:
            logger.warning("%s; trying again", error)
            stop.wait(BACK_OFF_S)
        if time.monotonic() >= report_at:
            report_at = time.monotonic() + REPORT_S
            logger.info("%d rows written", worker.written)


def wall_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
