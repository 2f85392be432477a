"""Metrics of materialization."""

from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge


@dataclass(frozen=True, slots=True)
class Materialized:
    """The result of a run. stamp: event timestamp of the rows; rows: loaded, by view; seconds: duration;
    late_s: how long after `stamp` the run ended (0 if before), while training takes its rows as readable."""

    stamp: datetime
    rows: dict[str, int]
    seconds: float
    late_s: float


class FeaturesMetrics:
    """Gauges of the newest successful run; failures are counted in `ringside_steps_total`."""

    def __init__(self, registry: CollectorRegistry):
        self._at = Gauge(
            "ringside_materialized_timestamp_seconds",
            "Event timestamp of the newest run's rows; 0: none yet.",
            registry=registry,
        )
        self._seconds = Gauge(
            "ringside_materialize_seconds", "Duration of the newest run.", registry=registry
        )
        self._late = Gauge(
            "ringside_materialize_late_seconds",
            "How long after its rows' timestamp the newest run ended.",
            registry=registry,
        )
        self._rows = Counter("ringside_materialized_rows", "Rows loaded online.", ["view"], registry=registry)

    def done(self, run: Materialized) -> None:
        """Set the gauges to a run that succeeded."""
        self._at.set(run.stamp.timestamp())
        self._seconds.set(run.seconds)
        self._late.set(run.late_s)
        for view, rows in run.rows.items():
            self._rows.labels(view).inc(rows)
