"""Rows a second of `ringside features materialize`, against Feast's own materialisation of the same rows
alone."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from services import bootstrap
from services.features.app import materialize
from services.local_servers.redis import EmbeddedRedis
from tests.benchmarks.installation import BenchmarkInstallation
from tests.benchmarks.serving import Effort


def measure(
    installation: BenchmarkInstallation, effort: Effort, say: Callable[[str], None]
) -> dict[str, Any]:
    """Ours computes the rows, stamps and stores them, and seeds activity, before it calls Feast; Feast alone
    finds the batch views' rows in their files. Each has an empty Redis."""
    with EmbeddedRedis() as redis:
        done = materialize(
            installation.settings.model_copy(update={"redis_url": redis.url}), datetime.now(UTC)
        )
    rows = sum(done.rows.values())
    views = [view for view in done.rows if view != "user_activity"]
    batch = sum(done.rows[view] for view in views)
    with EmbeddedRedis() as redis:
        feast_s = _feast_s(installation, redis.url, views, done.stamp)
    say(f"materialised {rows} rows in {done.seconds:.1f} s; Feast alone {batch} rows in {feast_s:.1f} s")
    return {"rows": done.rows, "rows_per_s": rows / done.seconds, "feast_rows_per_s": batch / feast_s}


def _feast_s(installation: BenchmarkInstallation, redis_url: str, views: list[str], stamp: datetime) -> float:
    settings = installation.settings.model_copy(
        update={"redis_url": redis_url, "home": installation.folder / "feast-alone"}
    )
    settings.home.mkdir(exist_ok=True)
    (settings.home / "offline").symlink_to((installation.settings.offline_path).resolve())
    store = bootstrap.feature_store(settings)
    store.apply()
    start = time.perf_counter()
    store.materialize(views, stamp)
    return time.perf_counter() - start
