"""The lake on disk: `<root>/<topic>/date=YYYY-MM-DD/hour=HH/<log>-<partition>-<from>-<to>.parquet`.

A file's name says which offsets it answers for, [from, to), of which log. A position is therefore never
stored apart from the rows: where a partition goes on is the highest `to` among its files. Files appear
whole, by a rename.

`<root>/.writers/<topic>-<partition>` names the one who may write a partition, and is locked while they do: a
worker that hung while another one took its partitions can't add what the other wrote already. Where the locks
of a file system don't hold between hosts, two workers may both write after a rebalance: then read each row of
(log in the file's name, topic, partition, offset) once.
"""

import fcntl
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from services.adapters.whole_files import write_whole
from services.errors import StalePositionError, UnavailableError
from services.ports import Span

_NAME = re.compile(r"(?P<log>[0-9a-f]{8})-(?P<partition>\d+)-(?P<first>\d+)-(?P<after>\d+)\.parquet")


class LakeFiles:
    """Files of all topics below `root`; one writer a partition: the object that took it last."""

    def __init__(self, root: Path):
        self._root = root
        self._name = uuid.uuid4().hex.encode()

    def tag(self, log_id: str) -> str:
        """How file names call a log."""
        return hashlib.sha256(log_id.encode()).hexdigest()[:8]

    def write(self, topic: str, span: Span, at_ms: int, rows: pa.Table) -> None:
        """Write the rows of `span` as one file, in the folder of the hour of `at_ms`. Raises OSError (a full
        disk); then there is no file."""
        hour = datetime.fromtimestamp(at_ms / 1_000, UTC)
        folder = self._root / topic / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}"
        write_whole(rows, folder / f"{span.stem}.parquet")

    def take(self, topic: str, partition: int, log: str) -> int | None:
        """Write this partition from now on, and nobody else; its position. Raises UnavailableError while
        another one writes."""
        with self._locked(topic, partition) as writer:
            os.ftruncate(writer, 0)
            os.pwrite(writer, self._name, 0)
            return self.position(topic, partition, log)

    @contextmanager
    def holding(self, topic: str, partition: int) -> Iterator[None]:
        """While this lasts nobody can take the partition. Raises StalePositionError if somebody has taken it
        since `take`."""
        with self._locked(topic, partition) as writer:
            if os.pread(writer, len(self._name), 0) != self._name:
                raise StalePositionError(f"{topic}/{partition}: another worker writes it now")
            yield

    @contextmanager
    def _locked(self, topic: str, partition: int) -> Iterator[int]:
        """The kernel lets go of the lock of a process that dies; one that hangs holds it."""
        folder = self._root / ".writers"
        folder.mkdir(parents=True, exist_ok=True)
        writer = os.open(folder / f"{topic}-{partition}", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(writer, f"{topic}/{partition}")
            yield writer
        finally:
            os.close(writer)

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


def _lock(file: int, what: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UnavailableError("the lake", f"another worker is writing {what}") from error
