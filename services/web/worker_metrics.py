"""What several workers count, told as one: prometheus_client keeps a file a kind of metric and process, and a
scrape adds them all up.

Files of workers that ended must not pile up, nor may what they counted be forgotten: their counts move into
one archive a kind. A lock on the folder lets no scrape see them twice or not at all.
"""

import contextlib
import fcntl
import logging
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

log = logging.getLogger(__name__)

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is first imported
ARCHIVE = "ended"
ADDED = ("counter", "histogram", "summary")  # gauges say what a process is: they end with it


def merged(folder: Path) -> CollectorRegistry:
    """The counts of all workers that share this folder, read anew at each look."""
    registry = CollectorRegistry()
    registry.register(_Merged(folder))  # type: ignore[arg-type]
    return registry


class _Merged:
    def __init__(self, folder: Path):
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Of prometheus_client."""
        try:
            with _locked(self._folder, fcntl.LOCK_SH):
                # one that is being made is empty for a moment
                files = [str(file) for file in self._folder.glob("*.db") if file.stat().st_size]
                return MultiProcessCollector.merge(files)
        except FileNotFoundError:  # the supervisor ends
            return []


def dead_letter(folder: Path, living: Iterable[int]) -> None:
    """Archive what processes counted that are not `living` (pids), and forget what they were."""
    of_living = {str(pid) for pid in living} | {ARCHIVE}
    try:
        with _locked(folder, fcntl.LOCK_EX):
            for file in folder.glob("*.db"):
                kind, _, pid = file.stem.rpartition("_")
                if pid not in of_living:
                    _bury(file, kind)
    except OSError as error:
        log.error("files of workers that ended stay in %s: %s", folder, error)


def _bury(file: Path, kind: str) -> None:
    if kind in ADDED:
        _archive(file, file.with_stem(f"{kind}_{ARCHIVE}"))
    if kind in ADDED or kind.startswith("gauge_live"):
        file.unlink()


def _archive(file: Path, archive: Path) -> None:
    """A plain write beside and a move: a full disk leaves all as it was; writing by mmap it would kill us."""
    counts = Counter(_read(archive))
    counts.update(_read(file))
    beside = archive.with_suffix(".new")
    beside.write_bytes(_encoded(counts))
    beside.replace(archive)


def _read(file: Path) -> dict[str, float]:
    """Counts by key; of a file that can't be read none, because no scrape could be answered with it."""
    if not file.exists() or not file.stat().st_size:
        return {}
    try:
        return {key: count for key, count, *_ in MmapedDict.read_all_values_from_file(str(file))}
    except (RuntimeError, ValueError, struct.error) as error:
        log.error("%s is damaged, what it counted is lost: %s", file, error)
        return {}


def _encoded(counts: Mapping[str, float]) -> bytes:
    """As MmapedDict: how many bytes are used, then each key (padded to eights) with its value and time."""
    parts = []
    for key, count in counts.items():
        name = key.encode()
        padded = name + b" " * (8 - (len(name) + 4) % 8)
        parts.append(struct.pack(f"i{len(padded)}sdd", len(name), padded, count, 0.0))
    body = b"".join(parts)
    return struct.pack("ii", 8 + len(body), 0) + body


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Shared by who reads, alone for who moves; whoever dies lets go."""
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, how)
        yield
    finally:
        os.close(place)
