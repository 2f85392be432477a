"""Rows a second of `ringside features materialize`, against Feast's own materialisation of the same rows
alone."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from services import bootstrap
from services.features.app import materialize
from tests.benchmarks.serving import Effort
from tests.benchmarks.stage import Stage


def measure(stage: Stage, effort: Effort, say: Callable[[str], None]) -> dict[str, Any]:
    """Ours computes the rows, stamps and stores them, and seeds activity, before it calls Feast; each with an
    empty Redis."""
    with bootstrap.embedded_redis() as redis:
        done = materialize(stage.settings.model_copy(update={"redis_url": redis.url}), datetime.now(UTC))
    rows = sum(done.rows.values())
    with bootstrap.embedded_redis() as redis:
        feast_s = _feast_s(stage, redis.url, list(done.rows))
    say(f"materialised {rows} rows in {done.seconds:.1f} s; Feast alone {feast_s:.1f} s")
    return {"rows": done.rows, "rows_per_s": rows / done.seconds, "feast_rows_per_s": rows / feast_s}


def _feast_s(stage: Stage, redis_url: str, views: list[str]) -> float:
    settings = stage.settings.model_copy(
        update={"redis_url": redis_url, "home": stage.folder / "feast-alone"}
    )
    settings.home.mkdir(exist_ok=True)
    (settings.home / "offline").symlink_to((stage.settings.offline_path).resolve())
    store = bootstrap.feature_store(settings)
    store.apply()
    start = time.perf_counter()
    store.materialize(views, datetime.now(UTC))
    return time.perf_counter() - start
