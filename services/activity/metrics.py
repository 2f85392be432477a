"""Metrics of the activity worker beyond those of its ports."""

from prometheus_client import CollectorRegistry, Counter

from services.activity.worker import ActivityCounts


class ActivityMetrics:
    """Counters of one worker."""

    def __init__(self, registry: CollectorRegistry):
        self._late = Counter(
            "ringside_activity_pushes_late",
            "Pushes that ended after their rows' timestamp.",
            registry=registry,
        )
        self._counted = 0  # what the counter already includes

    def update(self, counts: ActivityCounts) -> None:
        """Add the late pushes since the last call."""
        self._late.inc(counts.late - self._counted)
        self._counted = counts.late
