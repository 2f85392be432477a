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
        """Name of the lake file that answers for it."""
        return f"{self.log}-{self.partition}-{self.first}-{self.after}"


class LakeFiles(Protocol):
    """Parquet files of the topics. A file answers for a span of offsets and appears whole; a partition has
    one writer, who took it last."""

    def log_tag(self, log_id: str) -> str:
        """How file names call a log."""

    def write(self, topic: str, span: Span, at_ms: int, rows: "pa.Table") -> None:
        """Write the rows of `span` as one file, in the folder of the hour of `at_ms`."""

    def acquire(self, topic: str, partitions: Iterable[int], log: str) -> dict[int, int]:
        """Write these partitions from now on, and nobody else; the offset after the last one that a file
        answers for, of those that have a file of this log. Raises UnavailableError while another one writes;
        call it again then."""

    def hold(self, topic: str, partition: int) -> AbstractContextManager[None]:
        """While this lasts nobody can take the partition. Raises StalePositionError if somebody has taken it
        since `take`."""


@dataclass(frozen=True, slots=True)
class PastEvents:
    """Interactions as the lake has them, oldest first. user (routing key), item: unicode [n]; at: float64
    [n], s; kind: uint8 [n], index into KINDS."""

    user: NDArray[np.str_]
    item: NDArray[np.str_]
    at: NDArray[np.float64]
    kind: NDArray[np.uint8]

    @classmethod
    def none(cls) -> "PastEvents":
        """No events."""
        return cls(np.empty(0, "<U1"), np.empty(0, "<U1"), np.empty(0), np.empty(0, np.uint8))


class EventHistory(Protocol):
    """What shoppers did, for training."""

    def since(self, after_ms: int) -> PastEvents:
        """Events received after `after_ms`, oldest first, each once."""
