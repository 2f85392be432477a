"""The process: events to Feast, a push at most every `activity_flush_ms`, through broker and Redis
outages."""

import logging
import threading
import time
from concurrent.futures import TimeoutError as FutureTimeoutError

import numpy as np

from models.recommender import Progress
from services import bootstrap
from services.activity.metrics import ActivityMetrics
from services.activity.worker import ActivityWorker, Deps
from services.errors import UnavailableError
from services.messages.events import EVENTS
from services.ports.event_log import EventConsumer
from services.ports.features import ActivityStore
from services.runtime.process import stop_on_signal
from services.settings import Settings

logger = logging.getLogger(__name__)

GROUP = "ringside-activity"
POLL_S = 0.2
BACK_OFF_S = 0.25
REPORT_S = 60.0


def run(settings: Settings) -> None:
    """Push until SIGTERM."""
    bootstrap.configure_logging(settings, "activity")
    stop = stop_on_signal(settings, "activity")
    with bootstrap.metered(settings, "activity") as meters:
        store = meters.activity(bootstrap.activity_store(settings))
        warm_up(store)
        consumer = meters.consumer(bootstrap.group_consumer(settings, GROUP, (EVENTS,)))
        producer = meters.producer(bootstrap.producer(settings))
        deps = Deps(
            consumer,
            producer,
            bootstrap.log_admin(settings),
            store,
            consumer.assignment,
            bootstrap.feature_store(settings),
            settings.activity_ttl_s * 1_000,
        )
        worker = ActivityWorker(
            deps, wall_ms, most=settings.recent_items, horizon_ms=settings.activity_horizon_ms
        )
        try:
            loop(worker, stop, settings.activity_flush_ms / 1_000, meters)
        finally:
            consumer.close()
            producer.close()


def rebuild(settings: Settings, progress: Progress) -> str:
    """Restore what Redis forgot and read the log to its present end, beside or without the real workers; a
    sentence on what was done. Raises UnavailableError."""
    features = bootstrap.feature_store(settings)
    if not features.applied():
        return "nothing: no features are registered here (`ringside features apply`)"
    store = bootstrap.activity_store(settings)
    consumer, producer = bootstrap.consumer(settings), bootstrap.producer(settings)
    pairs = frozenset((EVENTS, index) for index in range(settings.kafka_partitions))
    ttl_ms = settings.activity_ttl_s * 1_000
    deps = Deps(consumer, producer, bootstrap.log_admin(settings), store, lambda: pairs, features, ttl_ms)
    shape = {"most": settings.recent_items, "horizon_ms": settings.activity_horizon_ms}
    worker = ActivityWorker(deps, wall_ms, **shape, progress=progress)
    try:
        return read_to_the_end(worker, consumer, pairs, progress)
    finally:
        consumer.close()
        producer.close()


def read_to_the_end(
    worker: ActivityWorker, consumer: EventConsumer, pairs: frozenset[tuple[str, int]], progress: Progress
) -> str:
    """Step until every event that is in the log now has been handled."""
    worker.step(POLL_S)
    ends = consumer.ends(pairs)
    while (done := sum(min(consumer.positions().get(pair, 0), end) for pair, end in ends.items())) < sum(
        ends.values()
    ):
        progress(done, sum(ends.values()), "events read")
        worker.step(POLL_S)
    views = ", ".join(f"{rows:,} of {view}" for view, rows in worker.restored.views.items() if rows)
    put_back = f"{worker.restored.activity:,} users' recent activity put back"
    return f"{put_back}{f', {views}' if views else ''}; {worker.counts.events:,} events read after it"


def warm_up(store: ActivityStore) -> None:
    """Before the first record is read: nobody's click waits for a cold store."""
    began_s = time.monotonic()
    try:
        store.warm_up()
    except UnavailableError as error:
        logger.warning("%s; the first push will be slow", error)
    else:
        logger.info("warm after %.0f ms", 1e3 * (time.monotonic() - began_s))


def loop(worker: ActivityWorker, stop: threading.Event, flush_s: float, meters: "bootstrap.Meters") -> None:
    """Step after step, none sooner than `flush_s` after the one before; what is unavailable is tried
    again."""
    report_at, metrics = time.monotonic() + REPORT_S, ActivityMetrics(meters.registry)
    while not stop.is_set():
        next_at = time.monotonic() + flush_s
        try:
            with meters.step():
                worker.step(POLL_S)
        except (UnavailableError, FutureTimeoutError) as error:
            logger.warning("%s; trying again", error or "no acknowledgement")
            stop.wait(BACK_OFF_S)
        metrics.look(worker.counts)
        if time.monotonic() >= report_at:
            report_at = time.monotonic() + REPORT_S
            report(worker)
        stop.wait(max(0.0, next_at - time.monotonic()))


def report(worker: ActivityWorker) -> None:
    """One line a minute for the operator."""
    counts = worker.counts
    p50, p99 = np.percentile(counts.push_ms or [0.0], [50, 99])
    logger.info(
        "%d events, %d rows pushed, %d bad, push p50 %.0f ms, p99 %.0f ms, %d late",
        counts.events,
        counts.rows,
        counts.bad.total(),
        p50,
        p99,
        counts.late,
    )


def wall_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
