"""The lake: Parquet files of the topics, and past events read from them."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Offsets [first, after) of a partition; `log` is a short tag of the log's identity."""

    log: str
    partition: int
    first: int
    after: int

    @property
    def stem(self) -> str:
        """Name of the lake file that contains these offsets, without its suffix."""
        return f"{self.log}-{self.partition}-{self.first}-{self.after}"


class LakeFiles(Protocol):
    """Parquet files of the topics. Each file contains a span of offsets and appears complete.

    Each partition has one writer: the last one that acquired it.
    """

    def log_tag(self, log_id: str) -> str:
        """Short name of a log in file names."""

    def write(self, topic: str, span: Span, at_ms: int, rows: "pa.Table") -> None:
        """Write the rows of `span` as one file, in the folder of the hour of `at_ms` (ms)."""

    def acquire(self, topic: str, partitions: Iterable[int], log: str) -> dict[int, int]:
        """Become the writer of these partitions, and return where to continue.

        The result has the offset after the last one in a file, of those partitions that have a file of this
        log. Raises UnavailableError while another process writes one of them; call again later.
        """

    def hold(self, topic: str, partition: int) -> AbstractContextManager[None]:
        """Keep other processes from acquiring the partition while the block runs.

        Raises StalePositionError if another process has acquired it.
        """


@dataclass(frozen=True, slots=True)
class PastEvents:
    """Interactions in the lake, oldest first.

    user (routing key), item: unicode [n]; at: float64 [n], seconds; kind: uint8 [n], index into KINDS.
    """

    user: NDArray[np.str_]
    item: NDArray[np.str_]
    at: NDArray[np.float64]
    kind: NDArray[np.uint8]

    @classmethod
    def none(cls) -> "PastEvents":
        """No events."""
        return cls(np.empty(0, "<U1"), np.empty(0, "<U1"), np.empty(0), np.empty(0, np.uint8))


class EventHistory(Protocol):
    """Interactions of shoppers, for training."""

    def since(self, after_ms: int) -> PastEvents:
        """Events received after `after_ms` (ms), oldest first, without duplicates."""
