"""The lake on disk: `<root>/<topic>/date=YYYY-MM-DD/hour=HH/<log>-<partition>-<from>-<to>.parquet`.

A file's name says which offsets it answers for, [from, to), of which log. A position is therefore never
stored apart from the rows: where a partition goes on is the highest `to` among its files. Files appear
whole, by a rename.
"""

import hashlib
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from services.ports import Span

_NAME = re.compile(r"(?P<log>[0-9a-f]{8})-(?P<partition>\d+)-(?P<first>\d+)-(?P<after>\d+)\.parquet")


class LakeFiles:
    """Files of all topics below `root`; one writer a partition."""

    def __init__(self, root: Path):
        self._root = root

    def tag(self, log_id: str) -> str:
        """How file names call a log."""
        return hashlib.sha256(log_id.encode()).hexdigest()[:8]

    def write(self, topic: str, span: Span, at_ms: int, rows: pa.Table) -> None:
        """Write the rows of `span` as one file, in the folder of the hour of `at_ms`."""
        hour = datetime.fromtimestamp(at_ms / 1_000, UTC)
        folder = self._root / topic / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}"
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{span.stem}.{uuid.uuid4().hex}"
        pq.write_table(rows, draft, compression="zstd")
        draft.replace(folder / f"{span.stem}.parquet")

    def position(self, topic: str, partition: int, log: str) -> int | None:
        """Offset after the last one that a file answers for; None: there is no file of this log."""
        spans = (span for _, span in self.files(topic) if (span.log, span.partition) == (log, partition))
        return max((span.after for span in spans), default=None)

    def files(self, topic: str) -> Iterator[tuple[Path, Span]]:
        """Whole files of a topic with what they answer for, in order of path."""
        for path in sorted((self._root / topic).glob("date=*/hour=*/*.parquet")):
            named = _NAME.fullmatch(path.name)
            if named:
                numbers = (int(named[group]) for group in ("partition", "first", "after"))
                yield path, Span(named["log"], *numbers)
