"""Feast's offline sources: folders of Parquet files that only grow, and point-in-time reading of them."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from services.adapters.feast.redis_layout import ITEM_CONTENT, ITEM_STATISTICS
from services.adapters.feast.schemas import SCHEMAS
from services.adapters.files.parquet_file import write_parquet

if TYPE_CHECKING:
    from feast import FeatureStore

EMPTY = "empty.parquet"  # a source needs a file before its first row


class OfflineFolder:
    """Histories of all views below `root`: `<root>/<view>/<name>.parquet`."""

    def __init__(self, root: Path):
        self._root = root

    def prepare(self) -> None:
        """Make the folder of every view, with an empty file that has its columns."""
        for view, schema in SCHEMAS.items():
            (self._root / view).mkdir(parents=True, exist_ok=True)
            if not (self._root / view / EMPTY).exists():
                self.append(view, schema.empty_table(), EMPTY.removesuffix(".parquet"))

    def append(self, view: str, rows: pa.Table, name: str) -> Path:
        """Write rows as the file `name`; replaces a file of that name."""
        complete = rows.select(SCHEMAS[view].names).cast(SCHEMAS[view])
        return write_parquet(complete, self._root / view / f"{name}.parquet")

    def extend(self, view: str, rows: pa.Table, name: str) -> Path:
        """Add rows to the file `name`, except those whose entity and timestamp it has already."""
        path = self._root / view / f"{name}.parquet"
        schema = SCHEMAS[view]
        rows = rows.select(schema.names).cast(schema)
        existing = pq.read_table(path, schema=schema) if path.exists() else schema.empty_table()
        both = pa.concat_tables([existing, rows])
        first = {identity: index for index, identity in reversed(list(enumerate(_identities(both))))}
        return self.append(view, both.take(sorted(first.values())), name)

    def read(self, view: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of a view's history."""
        if not (self._root / view).exists():
            return SCHEMAS[view].empty_table().select(list(columns or SCHEMAS[view].names))
        source = ds.dataset(self._root / view, schema=SCHEMAS[view], format="parquet")
        return source.to_table(columns=list(columns) if columns else None)


def _identities(rows: pa.Table) -> Iterator[tuple[str, datetime]]:
    return zip(rows.column(0).to_pylist(), rows["event_timestamp"].to_pylist(), strict=True)


def rows_as_of(
    store: "FeatureStore", view: str, features: Sequence[str], keys: Sequence[str], at_ms: Sequence[int]
) -> pd.DataFrame:
    """Row of each key at its own time, by `get_historical_features`; one row for each key, in order.

    keys: user or item ids; at_ms: ms since the epoch, of the same length. Columns: key, at_ms, features;
    features are null if there was no row, or only one older than the view's ttl. The function reads one view,
    because Feast's file store drops a key for all views if one of them has no row, and merges equal keys.
    """
    join_key = "item_id" if view in (ITEM_STATISTICS, ITEM_CONTENT) else "user_id"
    requested = pd.DataFrame({join_key: np.asarray(keys, dtype=object), "at_ms": np.asarray(at_ms, np.int64)})
    if requested.empty:
        return requested.reindex(columns=[join_key, "at_ms", *features])
    entities = requested.drop_duplicates()
    entities = entities.assign(event_timestamp=pd.to_datetime(entities["at_ms"], unit="ms", utc=True))
    references = [f"{view}:{name}" for name in features]
    rows = store.get_historical_features(entity_df=entities, features=references).to_df()
    return requested.merge(rows.drop(columns="event_timestamp"), how="left", on=[join_key, "at_ms"])
