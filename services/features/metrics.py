"""What materialising says of each run."""

from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge


@dataclass(frozen=True, slots=True)
class Materialized:
    """What a run did. late_s > 0: it ended that long after the rows' timestamps, so they were read too
    early."""

    stamp: datetime
    rows: dict[str, int]
    seconds: float
    late_s: float


class FeaturesMetrics:
    """The newest run that succeeded; failures are the `ringside_steps_total` that are not ok."""

    def __init__(self, registry: CollectorRegistry):
        self._at = Gauge(
            "ringside_materialized_timestamp_seconds",
            "Time of the rows of the newest run; 0: none.",
            registry=registry,
        )
        self._seconds = Gauge("ringside_materialize_seconds", "What it took.", registry=registry)
        self._late = Gauge(
            "ringside_materialize_late_seconds", "How long rows were read too early.", registry=registry
        )
        self._rows = Counter("ringside_materialized_rows", "Rows loaded.", ["view"], registry=registry)

    def done(self, run: Materialized) -> None:
        """A run has ended."""
        self._at.set(run.stamp.timestamp())
        self._seconds.set(run.seconds)
        self._late.set(run.late_s)
        for view, rows in run.rows.items():
            self._rows.labels(view).inc(rows)
