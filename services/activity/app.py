"""`ringside activity`: push recent activity from the topic `events` to Feast, through outages of broker and
Redis."""

import logging
import time
from collections.abc import Callable
from contextlib import closing

from models.recommender import ProgressCallback, no_progress
from services import bootstrap
from services.activity.metrics import ActivityMetrics
from services.activity.worker import ActivityWorker, Deps, Pair
from services.errors import UnavailableError
from services.messages.events import EVENTS
from services.ports.event_log import EventConsumer, EventProducer
from services.ports.features import ActivityStore
from services.runtime.clock import wall_ms
from services.runtime.process import stop_on_signal
from services.runtime.worker_loop import WorkerLoop
from services.settings import Settings

logger = logging.getLogger(__name__)

GROUP = "ringside-activity"
POLL_S = 0.2
RETRY_S = 0.25


def run(settings: Settings) -> None:
    """Push until SIGTERM, at most once in `activity_flush_ms`."""
    bootstrap.configure_logging(settings, "activity")
    stop = stop_on_signal(settings, "activity")
    with bootstrap.metered(settings, "activity") as meters:
        store = meters.activity(bootstrap.activity_store(settings))
        warm_up(store)
        member = bootstrap.group_consumer(settings, GROUP, (EVENTS,))
        metrics = ActivityMetrics(meters.registry)
        with (
            closing(meters.producer(bootstrap.producer(settings))) as producer,
            closing(meters.consumer(member)) as consumer,
        ):
            worker = make_worker(settings, consumer, producer, store, member.assignment)
            WorkerLoop(
                "pushing activity",
                lambda: worker.step(POLL_S),
                every_s=settings.activity_flush_ms / 1_000,
                retry_s=RETRY_S,
                retried=(UnavailableError, TimeoutError),
                metered=meters.step,
                observe=lambda: metrics.update(worker.counts),
                report=lambda: report(worker),
            ).run(stop)


def rebuild(settings: Settings, progress: ProgressCallback) -> str:
    """Restore the rows that Redis lost and read the log to its present end; other workers may run meanwhile.
    Returns a sentence on what was done. Raises UnavailableError."""
    if not bootstrap.feature_store(settings).applied():
        return "nothing: no features are registered here (`ringside features apply`)"
    store = bootstrap.activity_store(settings)
    pairs = frozenset((EVENTS, index) for index in range(settings.kafka_partitions))
    with closing(bootstrap.producer(settings)) as producer, closing(bootstrap.consumer(settings)) as consumer:
        worker = make_worker(settings, consumer, producer, store, lambda: pairs, progress)
        return read_to_the_end(worker, consumer, pairs, progress)


def make_worker(
    settings: Settings,
    consumer: EventConsumer,
    producer: EventProducer,
    store: ActivityStore,
    owned: Callable[[], frozenset[Pair]],
    progress: ProgressCallback = no_progress,
) -> ActivityWorker:
    """Compose the worker."""
    features, ttl_ms = bootstrap.feature_store(settings), settings.activity_ttl_s * 1_000
    deps = Deps(consumer, producer, bootstrap.log_admin(settings), store, owned, features, ttl_ms)
    most, horizon_ms = settings.recent_items, settings.activity_horizon_ms
    return ActivityWorker(deps, wall_ms, most=most, horizon_ms=horizon_ms, progress=progress)


def read_to_the_end(
    worker: ActivityWorker,
    consumer: EventConsumer,
    pairs: frozenset[Pair],
    progress: ProgressCallback,
) -> str:
    """Step until every event that is in the log now has been handled."""
    worker.step(POLL_S)
    ends = consumer.end_offsets(pairs)
    total = sum(ends.values())
    while (done := sum(min(consumer.positions().get(pair, 0), end) for pair, end in ends.items())) < total:
        progress(done, total, "events read")
        worker.step(POLL_S)
    views = ", ".join(f"{rows:,} of {view}" for view, rows in worker.restored.views.items() if rows)
    restored = f"recent activity of {worker.restored.activity:,} users restored"
    return f"{restored}{f', {views}' if views else ''}; {worker.counts.events:,} events read after it"


def warm_up(store: ActivityStore) -> None:
    """Prepare the store before the first record is read, so that no click waits for a cold store."""
    began_s = time.monotonic()
    try:
        store.warm_up()
    except UnavailableError as error:
        logger.warning("%s; the first push will be slow", error)
    else:
        logger.info("warm after %.0f ms", 1e3 * (time.monotonic() - began_s))


def report(worker: ActivityWorker) -> None:
    """One line a minute for the operator."""
    counts = worker.counts
    message = "%d events, %d rows pushed, %d bad, %d pushes late"
    logger.info(message, counts.events, counts.rows, counts.bad.total(), counts.late)
