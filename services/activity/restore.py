"""Redis forgot the features: they are loaded again from their histories on disk.

Recent activity: the latest row of each user, as it was; what shoppers did after it is read again from the
log, which changes no row that has seen it. Batch views: the latest row of each user or item. Whoever is
online already keeps what he has; the histories only add to it.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.recommender import ProgressCallback, no_progress
from services.activity import rows
from services.messages.events import ActivityRow
from services.ports.features import ActivityStore, FeatureStore
from services.runtime.row_turns import write_in_turns

logger = logging.getLogger(__name__)

USER_ACTIVITY = "user_activity"
BATCH_VIEWS = ("user_profile", "item_statistics", "item_content")
CHUNK = 1_000  # rows of a push: 59 ms


@dataclass(frozen=True, slots=True)
class Shape:
    """How rows are made. `most`: entries of one; `horizon_ms`: see rows.stamp; `ttl_ms`: older ones are not
    served, and not restored."""

    most: int
    horizon_ms: int
    ttl_ms: int


@dataclass(slots=True)
class Restored:
    """What was put back: rows of activity, rows by batch view. `known`: timestamp (ms) of the row of each
    user that the history holds: it need not be published again."""

    activity: int = 0
    views: dict[str, int] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)


def restore(
    store: ActivityStore,
    features: FeatureStore | None,
    shape: Shape,
    clock: Callable[[], int],
    progress: ProgressCallback = no_progress,
) -> Restored:
    """Load every history online. Raises UnavailableError; what was loaded then stays, and a repetition does
    no harm."""
    done = Restored()
    if features is None or not features.applied():
        return done
    history = latest(features.history(USER_ACTIVITY), "user_id")
    for chunk in _chunks(history, clock() - shape.ttl_ms):
        done.activity += _restore_users(store, chunk, shape, clock)
        done.known |= {row.user_id: row.received_at for row in chunk}
        progress(len(done.known), history.num_rows, "recent activity of users")
    for view in BATCH_VIEWS:
        table = latest(features.history(view), features.history(view).column_names[0])
        if table.num_rows:
            features.write_online(view, table)
        done.views[view] = table.num_rows
        progress(table.num_rows, table.num_rows, view)
    return done


def latest(history: pa.Table, key: str) -> pa.Table:
    """The last row of each key, by event timestamp; of equal ones the last in the table."""
    if not history.num_rows:
        return history
    codes = pc.dictionary_encode(history[key].combine_chunks()).indices.to_numpy()
    order = np.lexsort((pc.cast(history["event_timestamp"], pa.int64()).to_numpy(), codes))
    last = np.append(np.diff(codes[order]) != 0, True)
    return history.take(order[last])


def _chunks(history: pa.Table, oldest_ms: int) -> Iterator[list[ActivityRow]]:
    for batch in history.to_batches(max_chunksize=CHUNK):
        found = [_row(plain) for plain in batch.to_pylist()]
        yield [row for row in found if row is not None and row.received_at >= oldest_ms]


def _row(plain: Mapping) -> ActivityRow | None:
    """None if it makes no sense: what an older lake let in is not brought back."""
    stamp_ms = round(plain["event_timestamp"].timestamp() * 1_000)
    try:
        return msgspec.convert({**plain, "received_at": stamp_ms}, ActivityRow)
    except msgspec.ValidationError as error:
        logger.error("the activity of %r as of %d ms is not restored: %s", plain["user_id"], stamp_ms, error)
        return None


def _restore_users(
    store: ActivityStore, chunk: Sequence[ActivityRow], shape: Shape, clock: Callable[[], int]
) -> int:
    """Rows that were missing, as they were; rows that know less than history, joined with it."""
    kept = {row.user_id: row for row in chunk}

    def put_back(users: list[str]) -> list[ActivityRow]:
        online = store.load(users)
        wanted = [_joined(online.get(user), kept[user], shape, clock()) for user in users]
        changed = [row for row in wanted if row != online.get(row.user_id)]
        if changed:
            store.push(changed)
        return changed

    return len(write_in_turns(store, list(kept), put_back))


def _joined(online: ActivityRow | None, row: ActivityRow, shape: Shape, now_ms: int) -> ActivityRow:
    if online is None or online == row:
        return row
    both = rows.joined(online, row, shape.most)
    return online if both == online else rows.stamp(both, now_ms, shape.horizon_ms)
