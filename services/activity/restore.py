"""Restoring the features that Redis lost, from their offline histories.

Of recent activity the latest row of each user is pushed again; events after it are then read from the log,
and those that it already holds change nothing. Of the batch views the latest row of each user or item is
loaded. Rows that are already online keep their entries; the histories only add to them.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pyarrow as pa

from models.recommender import ProgressCallback, no_progress
from services.activity import rows
from services.messages.events import ActivityRow
from services.ports.features import ActivityStore, FeatureStore
from services.runtime.arrow_sql import latest_rows
from services.runtime.row_writes import write_with_row_locks

logger = logging.getLogger(__name__)

USER_ACTIVITY = "user_activity"
BATCH_VIEWS = ("user_profile", "item_statistics", "item_content")
CHUNK = 1_000  # rows of a push, which takes 59 ms


@dataclass(frozen=True, slots=True)
class RowSettings:
    """`most`: entries of a row; `horizon_ms`: see rows.stamp; `ttl_ms`: age after which a row is not served,
    and not restored."""

    most: int
    horizon_ms: int
    ttl_ms: int


@dataclass(slots=True)
class Restored:
    """What was restored: rows of activity, and rows by batch view. `published`: timestamp (ms) of the row of
    each user in the history, which need not be published again."""

    activity: int = 0
    views: dict[str, int] = field(default_factory=dict)
    published: dict[str, int] = field(default_factory=dict)


def restore(
    store: ActivityStore,
    features: FeatureStore | None,
    settings: RowSettings,
    clock: Callable[[], int],
    progress: ProgressCallback = no_progress,
) -> Restored:
    """Load every history online.

    Raises UnavailableError; rows that were loaded by then stay, and a repetition does no harm.
    """
    restored = Restored()
    if features is None or not features.applied():
        return restored
    history = latest_rows(features.history(USER_ACTIVITY), "user_id")
    for chunk in _chunks(history, clock() - settings.ttl_ms):
        restored.activity += _restore_users(store, chunk, settings, clock)
        restored.published |= {row.user_id: row.received_at for row in chunk}
        progress(len(restored.published), history.num_rows, "recent activity of users")
    for view in BATCH_VIEWS:
        table = features.history(view)
        table = latest_rows(table, table.column_names[0])
        if table.num_rows:
            features.write_online(view, table)
        restored.views[view] = table.num_rows
        progress(table.num_rows, table.num_rows, view)
    return restored


def _chunks(history: pa.Table, oldest_ms: int) -> Iterator[list[ActivityRow]]:
    for batch in history.to_batches(max_chunksize=CHUNK):
        parsed = [_parse(columns) for columns in batch.to_pylist()]
        yield [row for row in parsed if row is not None and row.received_at >= oldest_ms]


def _parse(columns: dict[str, Any]) -> ActivityRow | None:
    """Convert a row of the history; None if it is invalid, as some rows of older releases are."""
    stamp_ms = round(columns["event_timestamp"].timestamp() * 1_000)
    try:
        return msgspec.convert({**columns, "received_at": stamp_ms}, ActivityRow)
    except msgspec.ValidationError as error:
        message = "the activity of %r as of %d ms is not restored: %s"
        logger.error(message, columns["user_id"], stamp_ms, error)
        return None


def _restore_users(
    store: ActivityStore, chunk: Sequence[ActivityRow], settings: RowSettings, clock: Callable[[], int]
) -> int:
    """Push missing rows unchanged, and rows that lack entries of their history merged with it."""
    history = {row.user_id: row for row in chunk}

    def write(users: list[str]) -> list[ActivityRow]:
        online = store.load(users)
        wanted = [_restored_row(online.get(user), history[user], settings, clock()) for user in users]
        changed = [row for row in wanted if row != online.get(row.user_id)]
        if changed:
            store.push(changed)
        return changed

    return len(write_with_row_locks(store, list(history), write))


def _restored_row(
    online: ActivityRow | None, row: ActivityRow, settings: RowSettings, now_ms: int
) -> ActivityRow:
    if online is None or online == row:
        return row
    both = rows.union(online, row, settings.most)
    return online if both == online else rows.stamp(both, now_ms, settings.horizon_ms)
