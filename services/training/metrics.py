"""What the trainer says: fits with their seconds and the gate's word, and whether one is running."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.training.pipeline import Trained

FIT_S = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600)


class TrainerMetrics:
    """Counters of one trainer."""

    def __init__(self, registry: CollectorRegistry):
        self._fits = Counter(
            "ringside_fits",
            "Requests answered: passed or refused by the gate, or failed: passed, but not taken.",
            ["algorithm", "gate"],
            registry=registry,
        )
        self._seconds = Histogram(
            "ringside_fit_seconds",
            "Judging, fitting, saving and entering.",
            ["algorithm"],
            buckets=FIT_S,
            registry=registry,
        )
        self._failures = Counter("ringside_trainer_failures", "Looks that failed.", registry=registry)
        self._last = Gauge(
            "ringside_fit_timestamp_seconds", "When the newest fit ended; 0: none yet.", registry=registry
        )
        self._since = Gauge(
            "ringside_trainer_look_timestamp_seconds", "When the present look began.", registry=registry
        )

    def around(self, look: Callable[[], Trained | None]) -> Trained | None:
        """One look of the trainer, told."""
        began = time.perf_counter()
        self._since.set_to_current_time()
        try:
            trained = look()
        except Exception:
            self._failures.inc()
            raise
        if trained is not None:
            algorithm = trained.manifest.algorithm
            self._seconds.labels(algorithm).observe(time.perf_counter() - began)
            self._fits.labels(algorithm, trained.outcome).inc()
            self._last.set_to_current_time()
        return trained
