"""The lake on disk: `<root>/<topic>/date=YYYY-MM-DD/hour=HH/<log>-<partition>-<from>-<to>.parquet`.

A file's name has the log and the offsets [from, to) that it contains. So no position is stored apart from the
rows: a partition continues at the highest `to` among its files. Files appear complete, by a rename.

The file `<root>/.writers/<topic>-<partition>` names the writer of a partition, and is locked while it writes.
So a worker that hung while another one acquired its partitions cannot write the same rows again. On a file
system whose locks do not work between hosts two workers may both write after a rebalance; then read each (log
in the file's name, topic, partition, offset) once.

After the name the file lists two lake files: the last one, and the one that is about to be written. A lake
file is listed before it appears, so the newest existing one is one of the two whenever a process is killed,
and a start need not list a hundred thousand names. If neither exists, or they are of another log, the folders
are listed, once for all partitions of a topic.
"""

import fcntl
import hashlib
import os
import re
import uuid
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from services.adapters.files.parquet_file import write_parquet
from services.errors import StalePositionError, UnavailableError
from services.ports.lake import Span

_NAME = re.compile(r"(?P<log>[0-9a-f]{8})-(?P<partition>\d+)-(?P<first>\d+)-(?P<after>\d+)\.parquet")
MAX_LIST_BYTES = 4_096
LakeFile = tuple[str, Span]  # path below the folder of the topic, offsets


class LakeFiles:
    """See `services.ports.LakeFiles`. The files of all topics are below `root`."""

    def __init__(self, root: Path):
        self._root = root
        self._name = uuid.uuid4().hex.encode()
        self._last: dict[tuple[str, int], str] = {}  # newest file of a (topic, partition)

    def log_tag(self, log_id: str) -> str:
        """See LakeFiles."""
        return hashlib.sha256(log_id.encode()).hexdigest()[:8]

    def write(self, topic: str, span: Span, at_ms: int, rows: pa.Table) -> None:
        """See LakeFiles. Raises OSError (a full disk); then there is no file."""
        hour = datetime.fromtimestamp(at_ms / 1_000, UTC)
        path = f"date={hour:%Y-%m-%d}/hour={hour:%H}/{span.stem}.parquet"
        self._announce(topic, span.partition, path)
        write_parquet(rows, self._root / topic / path)
        self._last[topic, span.partition] = path

    def acquire(self, topic: str, partitions: Iterable[int], log: str) -> dict[int, int]:
        """See LakeFiles."""
        newest: dict[int, LakeFile | None] = {}
        for partition in sorted(partitions):
            with self._locked(topic, partition) as writer:
                os.pwrite(writer, self._name, 0)
                newest[partition] = self._listed(topic, Span(log, partition, 0, 0), writer)
        missing = {partition for partition, file in newest.items() if file is None}
        # This object had the lock, so the previous writer has finished, and a later one displaces this
        # object.
        newest |= self._newest(topic, missing, log) if missing else {}
        for partition, file in newest.items():
            self._last[topic, partition] = file[0] if file else ""
        return {partition: file[1].after for partition, file in newest.items() if file}

    @contextmanager
    def hold(self, topic: str, partition: int) -> Iterator[None]:
        """See LakeFiles."""
        with self._locked(topic, partition) as writer:
            if os.pread(writer, len(self._name), 0) != self._name:
                raise StalePositionError(f"{topic}/{partition}: another worker has acquired it")
            yield

    @contextmanager
    def _locked(self, topic: str, partition: int) -> Iterator[int]:
        """Lock the writer file. The kernel releases the lock of a process that dies, but not of one that
        hangs."""
        (self._root / ".writers").mkdir(parents=True, exist_ok=True)
        writer = os.open(self._writer(topic, partition), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(writer, f"{topic}/{partition}")
            yield writer
        finally:
            os.close(writer)

    def _writer(self, topic: str, partition: int) -> Path:
        return self._root / ".writers" / f"{topic}-{partition}"

    def _announce(self, topic: str, partition: int, path: str) -> None:
        """List a file before it is written. The list is synced, because a power cut must not leave an
        unlisted file."""
        listed = f"\n{self._last.get((topic, partition), '')}\n{path}".encode()
        writer = os.open(self._writer(topic, partition), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.pwrite(writer, listed, len(self._name))
            os.ftruncate(writer, len(self._name) + len(listed))
            os.fsync(writer)
        finally:
            os.close(writer)

    def _listed(self, topic: str, wanted: Span, writer: int) -> LakeFile | None:
        """The newest existing file among the two listed ones, of the log and partition of `wanted`."""
        listed = os.pread(writer, MAX_LIST_BYTES, len(self._name)).decode(errors="replace")
        for path in reversed(listed.split("\n")):
            span = _span(path.rpartition("/")[2])
            matches = span and (span.log, span.partition) == (wanted.log, wanted.partition)
            if span and matches and (self._root / topic / path).is_file():
                return path, span
        return None

    def _newest(self, topic: str, partitions: Container[int], log: str) -> dict[int, LakeFile]:
        newest: dict[int, LakeFile] = {}
        for path, span in self.files(topic):
            if span.log == log and span.partition in partitions:
                before = newest.get(span.partition)
                if before is None or span.after > before[1].after:
                    newest[span.partition] = path, span
        return newest

    def files(self, topic: str) -> Iterator[LakeFile]:
        """Complete files of a topic and their offsets, in no order."""
        for folder in (self._root / topic).glob("date=*/hour=*"):
            below = folder.relative_to(self._root / topic)
            with os.scandir(folder) as entries:
                named = ((entry.name, _span(entry.name)) for entry in entries)
                yield from ((f"{below}/{name}", span) for name, span in named if span)


def _span(name: str) -> Span | None:
    named = _NAME.fullmatch(name)
    return named and Span(named["log"], int(named["partition"]), int(named["first"]), int(named["after"]))


def _lock(file: int, what: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UnavailableError("the lake", f"another worker is writing {what}") from error
