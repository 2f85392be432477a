"""Metrics of the training process: fits by outcome, their duration, failures, and the age of the current
poll."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.training.pipeline import TrainingResult

FIT_S = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600)


class TrainingMetrics:
    """Metrics of one training process. Their names say trainer, as dashboards and alerts know them."""

    def __init__(self, registry: CollectorRegistry):
        self._fits = Counter(
            "ringside_fits",
            "Retraining requests answered: passed or refused by the gate; failed: passed, but not entered.",
            ["algorithm", "gate"],
            registry=registry,
        )
        self._seconds = Histogram(
            "ringside_fit_seconds",
            "Duration of a retraining: offline gate, fit, save and entry.",
            ["algorithm"],
            buckets=FIT_S,
            registry=registry,
        )
        self._failures = Counter("ringside_trainer_failures", "Polls that failed.", registry=registry)
        self._last = Gauge(
            "ringside_fit_timestamp_seconds", "End of the latest fit; 0: none yet.", registry=registry
        )
        self._since = Gauge(
            "ringside_trainer_look_timestamp_seconds", "Start of the current poll.", registry=registry
        )

    def observe(self, poll: Callable[[], TrainingResult | None]) -> TrainingResult | None:
        """Run one poll of the worker and record what it did; returns its result and passes on its errors."""
        start = time.perf_counter()
        self._since.set_to_current_time()
        try:
            trained = poll()
        except Exception:
            self._failures.inc()
            raise
        if trained is not None:
            algorithm = trained.manifest.algorithm
            self._seconds.labels(algorithm).observe(time.perf_counter() - start)
            self._fits.labels(algorithm, trained.outcome).inc()
            self._last.set_to_current_time()
        return trained
