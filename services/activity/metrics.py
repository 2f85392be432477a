"""What the activity worker says beyond what its ports tell: pushes that were too slow for their stamps."""

from prometheus_client import CollectorRegistry, Counter

from services.activity.worker import Counts


class ActivityMetrics:
    """Counters of one worker."""

    def __init__(self, registry: CollectorRegistry):
        self._late = Counter(
            "ringside_activity_pushes_late", "Readable only after their rows' time.", registry=registry
        )
        self._told = 0

    def look(self, counts: Counts) -> None:
        """Tell what has come since the last look."""
        self._late.inc(counts.late - self._told)
        self._told = counts.late
