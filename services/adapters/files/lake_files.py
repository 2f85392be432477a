"""The lake on disk: `<root>/<topic>/date=YYYY-MM-DD/hour=HH/<log>-<partition>-<from>-<to>.parquet`.

A file's name says which offsets it answers for, [from, to), of which log. A position is therefore never
stored apart from the rows: where a partition goes on is the highest `to` among its files. Files appear
whole, by a rename.

`<root>/.writers/<topic>-<partition>` names the one who may write a partition, and is locked while they do: a
worker that hung while another one took its partitions can't add what the other wrote already. Where the locks
of a file system don't hold between hosts, two workers may both write after a rebalance: then read each row of
(log in the file's name, topic, partition, offset) once.

Behind the name it notes two files: the last one, and the one that is about to be written. A file is noted
before it appears, so the newest that is there is one of the two, whatever was killed when, and nobody reads
through a hundred thousand names at a start. The files have the last word: if neither is there, or they are of
another log, the folders are read through, once for all partitions of a topic.
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
NOTE_BYTES = 4_096
Newest = tuple[str, Span]  # a file, below the folder of its topic, and what it answers for


class LakeFiles:
    """Files of all topics below `root`; one writer a partition: the object that took it last."""

    def __init__(self, root: Path):
        self._root = root
        self._name = uuid.uuid4().hex.encode()
        self._last: dict[tuple[str, int], str] = {}  # newest file of a (topic, partition) that is there

    def log_tag(self, log_id: str) -> str:
        """How file names call a log."""
        return hashlib.sha256(log_id.encode()).hexdigest()[:8]

    def write(self, topic: str, span: Span, at_ms: int, rows: pa.Table) -> None:
        """Write the rows of `span` as one file, in the folder of the hour of `at_ms`. Raises OSError (a full
        disk); then there is no file."""
        hour = datetime.fromtimestamp(at_ms / 1_000, UTC)
        path = f"date={hour:%Y-%m-%d}/hour={hour:%H}/{span.stem}.parquet"
        self._note(topic, span.partition, path)
        write_parquet(rows, self._root / topic / path)
        self._last[topic, span.partition] = path

    def acquire(self, topic: str, partitions: Iterable[int], log: str) -> dict[int, int]:
        """Write these partitions from now on, and nobody else; the offset after the last one that a file
        answers for, of those that have a file of this log. Raises UnavailableError while another one writes;
        call it again then."""
        found = {}
        for partition in sorted(partitions):
            with self._locked(topic, partition) as writer:
                os.pwrite(writer, self._name, 0)
                found[partition] = self._noted(topic, Span(log, partition, 0, 0), writer)
        missing = {partition for partition, newest in found.items() if newest is None}
        # The lock was ours once: whoever wrote before us has finished, and whoever takes it now displaces us.
        found |= self._newest(topic, missing, log) if missing else {}
        for partition, newest in found.items():
            self._last[topic, partition] = newest[0] if newest else ""
        return {partition: newest[1].after for partition, newest in found.items() if newest}

    @contextmanager
    def hold(self, topic: str, partition: int) -> Iterator[None]:
        """While this lasts nobody can take the partition. Raises StalePositionError if somebody has taken it
        since `take`."""
        with self._locked(topic, partition) as writer:
            if os.pread(writer, len(self._name), 0) != self._name:
                raise StalePositionError(f"{topic}/{partition}: another worker writes it now")
            yield

    @contextmanager
    def _locked(self, topic: str, partition: int) -> Iterator[int]:
        """The kernel lets go of the lock of a process that dies; one that hangs holds it."""
        (self._root / ".writers").mkdir(parents=True, exist_ok=True)
        writer = os.open(self._writer(topic, partition), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(writer, f"{topic}/{partition}")
            yield writer
        finally:
            os.close(writer)

    def _writer(self, topic: str, partition: int) -> Path:
        return self._root / ".writers" / f"{topic}-{partition}"

    def _note(self, topic: str, partition: int, path: str) -> None:
        """Reaches the disk before the file does: else a power cut could leave a file that nobody noted."""
        note = f"\n{self._last.get((topic, partition), '')}\n{path}".encode()
        writer = os.open(self._writer(topic, partition), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.pwrite(writer, note, len(self._name))
            os.ftruncate(writer, len(self._name) + len(note))
            os.fsync(writer)
        finally:
            os.close(writer)

    def _noted(self, topic: str, wanted: Span, writer: int) -> Newest | None:
        """The newer of the two noted files that is there; `wanted`: of which log and partition."""
        note = os.pread(writer, NOTE_BYTES, len(self._name)).decode(errors="replace")
        for path in reversed(note.split("\n")):
            span = _span(path.rpartition("/")[2])
            ours = span and (span.log, span.partition) == (wanted.log, wanted.partition)
            if span and ours and (self._root / topic / path).is_file():
                return path, span
        return None

    def _newest(self, topic: str, partitions: Container[int], log: str) -> dict[int, Newest]:
        newest: dict[int, Newest] = {}
        for path, span in self.files(topic):
            if span.log == log and span.partition in partitions:
                before = newest.get(span.partition)
                if before is None or span.after > before[1].after:
                    newest[span.partition] = path, span
        return newest

    def files(self, topic: str) -> Iterator[Newest]:
        """Whole files of a topic, below its folder, with what they answer for; in no order."""
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
