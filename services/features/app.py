"""`ringside features …`: register views, compute the batch views as of now, load them online."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context

import pyarrow as pa
from rich.console import Console

from services import bootstrap
from services.features import backfill, statistics
from services.features.metrics import FeaturesMetrics, Materialized
from services.ports.features import FeatureStore
from services.ports.training import DataStore
from services.runtime.arrow_sql import query
from services.runtime.process import stop_on_signal
from services.runtime.worker_loop import WorkerLoop
from services.settings import Settings

logger = logging.getLogger(__name__)

Step = Callable[[str], None]
PROCESS = "features"
RETRY_S = 60.0
LONGEST_S = 1_800.0  # a run is one long step

# Events of the lake as interactions, from the end of the data set on, as in training. A shop's export has
# the earlier ones. The value of a purchase is the amount paid; without one it is the price in the catalogue.
_LIVE = """
SELECT coalesce(user_id, session_id) AS user_id, item_id, to_timestamp(received_at / 1000.0) AS "at",
       type AS kind, 1.0 AS quantity, coalesce(value, items.price, 0) AS price, event_id
FROM read_parquet($files, hive_partitioning = false, union_by_name = true) LEFT JOIN items USING (item_id)
WHERE type <> 'impression' AND coalesce(user_id, session_id) IS NOT NULL
      AND received_at > (SELECT coalesce(epoch_ms(max("at")), 0) FROM imported)
QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY received_at) = 1
"""


def apply(settings: Settings) -> None:
    """Register entities, views and feature services with Feast; idempotent."""
    bootstrap.feature_store(settings).apply()


def materialize(settings: Settings, now: datetime, on_step: Step = lambda step: None) -> Materialized:
    """Compute profiles, statistics and contents as of `now` and load them online.

    Rows are stamped `materialize_horizon_ms` ahead, because by then all of them can be read. Users without
    online activity get their recent items (services.features.backfill).
    """
    data = bootstrap.data_store(settings)
    data.table("items")  # raises ConfigurationError without data, before Feast takes its seconds
    store = bootstrap.feature_store(settings)
    on_step("opening Feast")
    opening = time.perf_counter()
    store.open()
    started = time.perf_counter()
    now += timedelta(seconds=started - opening)
    stamp = _readable_at(settings, now)
    on_step("computing user and item statistics")
    tables = _batch_views(settings, data, store, now, stamp)
    for view, rows in tables.items():
        store.append(view, rows, f"batch-{int(stamp.timestamp() * 1_000)}")
    on_step("loading recent items of the data set")
    backfilled = backfill.backfill_activity(
        data,
        bootstrap.activity_store(settings),
        store,
        now,
        most=settings.recent_items,
        ttl_s=settings.activity_ttl_s,
    )
    on_step(f"materializing {sum(rows.num_rows for rows in tables.values()):,} rows")
    store.materialize(list(tables), stamp)
    seconds = time.perf_counter() - started
    late_s = seconds - settings.materialize_horizon_ms / 1_000
    counts = {view: rows.num_rows for view, rows in tables.items()} | {"user_activity": backfilled}
    return Materialized(stamp, counts, seconds, max(0.0, late_s))


def _readable_at(settings: Settings, now: datetime) -> datetime:
    """Time at which rows computed now can be read, in whole milliseconds like every served timestamp."""
    stamp = now + timedelta(milliseconds=settings.materialize_horizon_ms)
    return stamp.replace(microsecond=stamp.microsecond // 1_000 * 1_000)


def _batch_views(
    settings: Settings, data: DataStore, store: FeatureStore, now: datetime, stamp: datetime
) -> dict[str, pa.Table]:
    items = data.table("items")
    interactions = _interactions(settings, data.table("interactions"), items)
    return {
        "user_profile": statistics.user_profile(interactions, now, stamp),
        "item_statistics": statistics.item_statistics(interactions, items, now, stamp),
        "item_content": statistics.item_content(items, store.history("item_content"), stamp),
    }


def _interactions(settings: Settings, imported: pa.Table, items: pa.Table) -> pa.Table:
    """All interactions: those of the data set, then the later ones of the lake."""
    columns = ["user_id", "item_id", "at", "kind", "quantity", "price"]
    imported = imported.select(columns)
    files = [str(path) for path in sorted((settings.lake_path / "events").glob("**/*.parquet"))]
    if not files:
        return imported
    live = query(_LIVE, {"items": items, "imported": imported}, files=files)
    return pa.concat_tables([imported, live.select(columns).cast(imported.schema)])


def run_every(settings: Settings, every_s: float) -> None:
    """`ringside features materialize --every`: until SIGTERM.

    Each run has its own process, because Feast takes hundreds of megabytes that are not needed between runs.
    """
    bootstrap.configure_logging(settings, PROCESS)
    stop = stop_on_signal(settings, PROCESS)
    with bootstrap.metered(settings, PROCESS, silent_s=LONGEST_S) as meters:
        WorkerLoop(
            "materializing features (serving stale ones meanwhile)",
            _MaterializeStep(settings, FeaturesMetrics(meters.registry)),
            every_s=every_s,
            retry_s=min(every_s, RETRY_S),
            # DuckDB, Arrow and Feast raise errors of their own, for example for a damaged file
            retried=(Exception,),
            metered=meters.step,
        ).run(stop)


class _MaterializeStep:
    """One materialization in a child process; the first one registers the views before."""

    def __init__(self, settings: Settings, metrics: FeaturesMetrics):
        self._settings, self._metrics, self._first = settings, metrics, True

    def __call__(self) -> None:
        with ProcessPoolExecutor(1, get_context("spawn")) as child:
            self._metrics.done(child.submit(_materialize_in_child, self._settings, self._first).result())
        self._first = False


def _materialize_in_child(settings: Settings, first: bool) -> Materialized:
    bootstrap.configure_logging(settings, PROCESS)
    if first:  # the views of this version may differ from those of the version that ran here before
        apply(settings)
    return materialize(settings, datetime.now(UTC), lambda step: logger.info("%s", step))


def run_apply(settings: Settings) -> None:
    """`ringside features apply` on a terminal."""
    console, started = Console(), time.perf_counter()
    with console.status("importing Feast and applying feature_repo …"):
        apply(settings)
    console.print(f"applied in {time.perf_counter() - started:.1f} s")


def run_materialize(settings: Settings) -> None:
    """`ringside features materialize` on a terminal."""
    console = Console()
    with console.status("starting") as status:
        done = materialize(settings, datetime.now(UTC), lambda step: status.update(f"{step} …"))
    for view, rows in done.rows.items():
        console.print(f"{view}: {rows:,} rows")
    console.print(f"materialized in {done.seconds:.1f} s, up to {done.stamp.isoformat()}")
    if done.late_s:
        console.print(
            f"[yellow]{done.late_s:.1f} s later than the rows' timestamps: raise "
            "RINGSIDE_MATERIALIZE_HORIZON_MS, or training sees rows before serving can read them[/]"
        )
