"""Metrics of the stores: sums, rows of recent activity, files of the lake."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from experiments.counting.sums import CATEGORIES, ExperimentSums
from services.adapters.instrumented.wrapper import MeteredPort
from services.errors import StalePositionError
from services.messages.events import ActivityRow
from services.ports.features import ActivityStore
from services.ports.lake import LakeFiles, Span
from services.ports.state import Positions, Sums, SumStore

if TYPE_CHECKING:
    import pyarrow as pa

EVENT_FATES = ("acknowledged", *CATEGORIES)


class MeteredSumStore(MeteredPort[SumStore]):
    """A SumStore that counts what its batches add: units by arm, events and exposures by fate."""

    def __init__(self, inner: SumStore, registry: CollectorRegistry):
        super().__init__(inner, registry)
        self._units = self._counter("ringside_units_matured", "Units whose outcome is final.", ["arm"])
        self._successes = self._counter("ringside_unit_successes", "Matured units with a success.", ["arm"])
        self._fallbacks = self._counter(
            "ringside_unit_fallbacks", "Matured units that another arm answered.", ["arm"]
        )
        self._events = self._counter(
            "ringside_events_accounted",
            "Attributed events by fate: acknowledged = counted + late + duplicate + unmatched.",
            ["fate"],
        )
        self._exposures = self._counter(
            "ringside_exposures_accounted",
            "First exposures by fate: exposed = units + late_exposures + duplicate_exposures.",
            ["fate"],
        )
        for fate in EVENT_FATES:  # start at 0, so that the first one is an increase
            self._events.labels(fate)
        self._seconds = self._histogram("ringside_tally_apply_seconds", "One batch into the sums.")
        self._stale = self._counter(
            "ringside_tally_refused",
            "Batches rejected because another worker had already advanced the partition.",
        )
        self._losses = self._gauge(
            "ringside_data_losses", "Partitions with a data loss that no operator has accepted."
        )

    def apply(
        self,
        partition: int,
        fetched_from: Positions | None,
        moved_to: Positions,
        deltas: Mapping[str, Sums],
        drop: Iterable[str] = (),
    ) -> None:
        """See SumStore; only an applied batch is counted."""
        with self._seconds.time(), self._stale.count_exceptions(StalePositionError):
            self._inner.apply(partition, fetched_from, moved_to, deltas, drop)
        for sums in deltas.values():
            self._count(ExperimentSums.parse(sums))

    def _count(self, batch: ExperimentSums) -> None:
        for (_, arm, _), counts in batch.cells.items():
            self._units.labels(arm).inc(counts.n)
            self._successes.labels(arm).inc(counts.s)
            self._fallbacks.labels(arm).inc(counts.f)
        for account in batch.accounts.values():
            for fate, count in account.items():
                (self._events if fate in EVENT_FATES else self._exposures).labels(fate).inc(count)

    def losses(self) -> dict[int, str]:
        """See SumStore."""
        losses = self._inner.losses()
        self._losses.set(len(losses))
        return losses


class MeteredActivityStore(MeteredPort[ActivityStore]):
    """An ActivityStore that measures its pushes."""

    def __init__(self, inner: ActivityStore, registry: CollectorRegistry):
        super().__init__(inner, registry)
        self._seconds = self._histogram("ringside_activity_push_seconds", "One push of rows to Feast.")
        self._rows = self._counter("ringside_activity_rows", "Rows of recent activity pushed.")

    def push(self, rows: Sequence[ActivityRow]) -> None:
        """See ActivityStore."""
        with self._seconds.time():
            self._inner.push(rows)
        self._rows.inc(len(rows))


class MeteredLakeFiles(MeteredPort[LakeFiles]):
    """LakeFiles that measure their writes by topic."""

    def __init__(self, inner: LakeFiles, registry: CollectorRegistry):
        super().__init__(inner, registry)
        self._rows = self._counter("ringside_lake_rows", "Rows written to Parquet.", ["topic"])
        self._files = self._counter("ringside_lake_files", "Parquet files written.", ["topic"])
        self._at = self._gauge(
            "ringside_lake_file_timestamp_seconds", "When the newest file of a topic was written.", ["topic"]
        )
        self._seconds = self._histogram("ringside_lake_write_seconds", "One Parquet file.")

    def write(self, topic: str, span: Span, at_ms: int, rows: "pa.Table") -> None:
        """See LakeFiles."""
        with self._seconds.time():
            self._inner.write(topic, span, at_ms, rows)
        self._rows.labels(topic).inc(rows.num_rows)
        self._files.labels(topic).inc()
        self._at.labels(topic).set_to_current_time()
