"""Parquet files that appear whole or not at all, whatever is killed or full at whichever moment."""

import os
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_whole(rows: pa.Table, path: Path) -> Path:
    """Write beside, bring it to disk, rename. Raises OSError (a full disk), and leaves nothing behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.stem}.{uuid.uuid4().hex}"  # readers pass over names that begin with a dot
    try:
        pq.write_table(rows, draft, compression="zstd")
        with draft.open("rb+") as written:
            os.fsync(written.fileno())  # else a power cut may leave the name without its bytes
        return draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
