"""Stores of the workers, measured: sums, rows of activity, files of the lake, and the log of decisions."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from experiments.counting.sums import ACCOUNT, CATEGORIES
from services.adapters.instrumented.wrapper import PortWrapper
from services.errors import StalePositionError
from services.messages.events import ActivityRow
from services.ports.features import ActivityStore
from services.ports.lake import LakeFiles, Span
from services.ports.state import Positions, Sums, SumStore

if TYPE_CHECKING:
    import pyarrow as pa

EVENT_FATES = ("acknowledged", *CATEGORIES)
WRITE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


def seconds(name: str, told: str, registry: CollectorRegistry) -> Histogram:
    """A histogram of how long a write takes."""
    return Histogram(name, told, buckets=WRITE_S, registry=registry)


@contextmanager
def timed(histogram: Histogram) -> Iterator[None]:
    """Observe how long the block took, also when it fails."""
    began = time.perf_counter()
    try:
        yield
    finally:
        histogram.observe(time.perf_counter() - began)


class MeteredSumStore(PortWrapper):
    """A SumStore that counts what its batches add: units by arm, and what became of events."""

    def __init__(self, inner: SumStore, registry: CollectorRegistry):
        super().__init__(inner)
        self._units = Counter(
            "ringside_units_matured", "Units whose outcome is final.", ["arm"], registry=registry
        )
        self._successes = Counter(
            "ringside_unit_successes", "Matured units with a success.", ["arm"], registry=registry
        )
        self._fallbacks = Counter(
            "ringside_unit_fallbacks", "Matured units that another arm answered.", ["arm"], registry=registry
        )
        self._events = Counter(
            "ringside_events_accounted",
            "What became of attributed events: acknowledged = counted + late + duplicate + unmatched.",
            ["fate"],
            registry=registry,
        )
        self._exposures = Counter(
            "ringside_exposures_accounted",
            "What became of first exposures: exposed = units + late_exposures + duplicate_exposures.",
            ["fate"],
            registry=registry,
        )
        for fate in EVENT_FATES:  # from 0 on: a first one must be seen as an increase
            self._events.labels(fate)
        self._seconds = seconds("ringside_tally_apply_seconds", "One batch into the sums.", registry)
        self._stale = Counter(
            "ringside_tally_refused", "Batches of which another worker was ahead.", registry=registry
        )
        self._losses = Gauge(
            "ringside_data_losses", "Partitions whose loss nobody has accepted.", registry=registry
        )
        self._by_letter = {"n": self._units, "s": self._successes, "f": self._fallbacks}

    def apply(
        self,
        partition: int,
        fetched_from: Positions | None,
        moved_to: Positions,
        deltas: Mapping[str, Sums],
        drop: Iterable[str] = (),
    ) -> None:
        """As SumStore; only what was applied is counted."""
        with timed(self._seconds), self._stale.count_exceptions(StalePositionError):
            self._inner.apply(partition, fetched_from, moved_to, deltas, drop)
        for sums in deltas.values():
            for key, count in sums.items():
                self._count(key, count)

    def _count(self, key: str, count: int) -> None:
        first, arm, *rest = key.split("|")
        if first == ACCOUNT:
            (self._events if rest[0] in EVENT_FATES else self._exposures).labels(rest[0]).inc(count)
        elif (counter := self._by_letter.get(rest[-1])) is not None:
            counter.labels(arm).inc(count)

    def losses(self) -> dict[int, str]:
        """As SumStore."""
        found = self._inner.losses()
        self._losses.set(len(found))
        return found


class MeteredActivityStore(PortWrapper):
    """An ActivityStore whose pushes are timed."""

    def __init__(self, inner: ActivityStore, registry: CollectorRegistry):
        super().__init__(inner)
        self._seconds = seconds("ringside_activity_push_seconds", "One push of rows to Feast.", registry)
        self._rows = Counter("ringside_activity_rows", "Rows of recent activity pushed.", registry=registry)

    def push(self, rows: Sequence[ActivityRow]) -> None:
        """As ActivityStore."""
        with timed(self._seconds):
            self._inner.push(rows)
        self._rows.inc(len(rows))


class MeteredLakeFiles(PortWrapper):
    """LakeFiles whose writes are counted by topic."""

    def __init__(self, inner: LakeFiles, registry: CollectorRegistry):
        super().__init__(inner)
        self._rows = Counter("ringside_lake_rows", "Rows written to Parquet.", ["topic"], registry=registry)
        self._files = Counter("ringside_lake_files", "Parquet files written.", ["topic"], registry=registry)
        self._at = Gauge(
            "ringside_lake_file_timestamp_seconds",
            "When the newest file of a topic was written.",
            ["topic"],
            registry=registry,
        )
        self._seconds = seconds("ringside_lake_write_seconds", "One Parquet file.", registry)

    def write(self, topic: str, span: Span, at_ms: int, rows: "pa.Table") -> None:
        """As LakeFiles."""
        with timed(self._seconds):
            self._inner.write(topic, span, at_ms, rows)
        self._rows.labels(topic).inc(rows.num_rows)
        self._files.labels(topic).inc()
        self._at.labels(topic).set_to_current_time()
