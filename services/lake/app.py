"""`ringside lake`: write topics to Parquet until SIGTERM, and then the records that wait for their file."""

import logging
from contextlib import closing

from services import bootstrap
from services.errors import UnavailableError
from services.lake.tables import TABLES
from services.lake.worker import Deps, LakeWorker
from services.runtime.clock import wall_ms
from services.runtime.process import stop_on_signal
from services.runtime.worker_loop import WorkerLoop
from services.settings import Settings

logger = logging.getLogger(__name__)

GROUP = "ringside-lake"
POLL_S = 0.5


def run(settings: Settings) -> None:
    """Write until SIGTERM."""
    bootstrap.configure_logging(settings, "lake")
    stop = stop_on_signal(settings, "lake")
    with bootstrap.metered(settings, "lake") as meters:
        member = bootstrap.group_consumer(settings, GROUP, tuple(TABLES))
        with (
            closing(meters.producer(bootstrap.producer(settings))) as producer,
            closing(meters.consumer(member)) as consumer,
        ):
            admin, features = bootstrap.log_admin(settings), bootstrap.feature_store(settings)
            files = meters.lake(bootstrap.lake_files(settings))
            deps = Deps(consumer, producer, admin, files, features, member.assignment)
            flush_ms = round(settings.lake_flush_s * 1_000)
            worker = LakeWorker(deps, wall_ms, flush_ms=flush_ms, max_records=settings.lake_flush_records)
            WorkerLoop(
                "writing to the lake",
                lambda: worker.step(POLL_S),
                retried=(UnavailableError, OSError),  # a full disk, too
                metered=meters.step,
                report=lambda: logger.info("%d rows written", worker.written),
            ).run(stop)
            worker.close()
