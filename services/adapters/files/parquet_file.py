"""Parquet files that readers see complete or not at all."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from services.runtime.atomic_write import atomic_replacement


def write_parquet(rows: pa.Table, path: Path) -> Path:
    """Write `rows` to `path`, on disk before the name appears. Raises OSError and leaves no draft behind."""
    with atomic_replacement(path, synced=True) as draft:
        pq.write_table(rows, draft, compression="zstd")
    return path
