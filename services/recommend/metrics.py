"""Metrics of a replica: one registry per application; with several workers, their multiprocess files are
merged."""

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from services.messages.events import Exposure
from services.web import worker_metrics

_LATENCY_MS = (0.5, 1, 2, 3, 5, 7.5, 10, 20, 30, 50, 75, 100, 250, 500, 1_000, 2_500)
# Durations are rounded to this fraction of a second, so that their sums are exact in any order. Otherwise a
# total over workers could fall by a rounding error, which Prometheus would take for a restart.
_STEPS_PER_S = 2**20
_PIN_OF = {"pin_unreachable": "unreachable", "overridden": "overridden"}
SHED = ("overload", "rate_limit", "connections")
# Codes of `degraded` for a lack of items. They are counted by step, but nothing is broken.
_SPARSE = frozenset({"fewer_eligible", "category_share"})
_NO_PIN = "r:"  # prefix of units without a pin, see experiments.allocation.assignment.unit_id


class _Gauges:
    """Gauges of one replica, labelled with its name: not summed over workers, and gone with the replica."""

    def __init__(self, replica: str, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            family = Gauge(name, text, ["replica"], registry=registry, multiprocess_mode="liveall")
            return family.labels(replica)

        self.revision = gauge("ringside_served_revision", "Revision of the experiment being served.")
        self.models = gauge("ringside_models_loaded", "Models in memory.")
        self.items = gauge("ringside_catalogue_items", "Items that may be shown.")
        self.state_age = gauge("ringside_state_age_seconds", "Time since the experiment state was last read.")
        self.champion_only = gauge("ringside_champion_only", "1 while only the champion serves.")
        self.turned = gauge("ringside_event_loop_turn_timestamp_seconds", "When the event loop last turned.")
        self.tasks = gauge("ringside_event_loop_tasks", "Tasks of the event loop, requests among them.")
        self.memory = gauge("ringside_resident_memory_bytes", "Memory of the replica.")
        self.cpu = gauge("ringside_cpu_used_seconds", "CPU time of the replica since it started.")


class Metrics:
    """Counters and gauges of one replica. Children of labels are cached, because a lookup costs 2 µs and an
    increment 1 µs."""

    def __init__(self, replica: str = "replica", *, merged: bool = False) -> None:
        """merged: /metrics reports all workers, from the files that they share."""
        self._process = psutil.Process()
        registry = CollectorRegistry()
        self.exposed = (
            worker_metrics.merged(Path(os.environ[worker_metrics.MULTIPROCESS_DIR])) if merged else registry
        )

        def counter(name: str, text: str, label: str) -> Callable[[str], Counter]:
            return cache(Counter(name, text, [label], registry=registry).labels)

        seconds, responses = "ringside_http_request_seconds", "ringside_http_responses"
        buckets = [ms / 1_000 for ms in _LATENCY_MS]
        self._seconds = cache(
            Histogram(
                seconds, "Time to answer, by route.", ["route"], buckets=buckets, registry=registry
            ).labels
        )
        self._responses = cache(
            Counter(
                responses, "Responses by route and status.", ["route", "status"], registry=registry
            ).labels
        )
        self._shed = counter("ringside_requests_shed", "Refused before any work, by reason.", "reason")
        self._slates = counter("ringside_slates", "Slates by assigned arm.", "arm")
        self._fallbacks = counter(
            "ringside_slate_fallbacks", "Slates that another arm than the assigned one answered.", "arm"
        )
        self._degraded = counter("ringside_slates_degraded", "Degraded slates, by step.", "step")
        lacking = "Degraded slates, each counted once, without those that only lacked items."
        self._lacking = Counter("ringside_slates_lacking", lacking, registry=registry)
        self._excluded = counter("ringside_slates_excluded", "Slates that don't count, by reason.", "reason")
        self._pins = counter(
            "ringside_pins", "Slates by their unit's pin: made, kept, overridden, unreachable.", "result"
        )
        lost = "Exposures that the broker never acknowledged."
        self.exposures_lost = Counter("ringside_exposures_lost", lost, registry=registry)
        self._events = counter("ringside_events", "Events by result.", "result")
        self._unattributed = counter(
            "ringside_events_unattributed", "Events whose recommendation id doesn't count.", "reason"
        )
        self._gauges = _Gauges(replica, registry)
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        """Create counters that alerts use, so that their first increment is seen as an increase."""
        for reason in SHED:
            self._shed(reason)
        for result in ("acknowledged", "refused", "unavailable"):
            self._events(result)
        for result in ("made", "kept", *_PIN_OF.values()):
            self._pins(result)

    def response(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._seconds(route).observe(int(seconds * _STEPS_PER_S + 0.5) / _STEPS_PER_S)
        self._responses(route, status).inc()
        if status == 429:
            self.shed("rate_limit")

    def turned(self, now_ms: int, tasks: int) -> None:
        """Record that the event loop turns, and its number of tasks. Other threads and a supervisor would
        report metrics even if it no longer did."""
        self._gauges.turned.set(now_ms / 1_000)
        self._gauges.tasks.set(tasks)

    def shed(self, reason: str) -> None:
        """Count what was refused before any work: a request by `overload` or `rate_limit`, or one of too many
        `connections` of a client."""
        self._shed(reason).inc()

    def slate(self, exposure: Exposure, degraded: str | None) -> None:
        """Count a slate; `degraded` as in its answer."""
        self._slates(exposure.arm).inc()
        if exposure.answered_by != exposure.arm:
            self._fallbacks(exposure.arm).inc()
        if degraded is not None:
            self._steps([code.partition(":")[0] for code in degraded.split(",")])
        if exposure.excluded is not None:
            self._excluded(exposure.excluded).inc()
        self._pin(exposure)

    def _pin(self, exposure: Exposure) -> None:
        if exposure.excluded is not None:
            result = _PIN_OF.get(exposure.excluded)
        elif exposure.unit.startswith(_NO_PIN):
            result = None
        else:
            result = "made" if exposure.first else "kept"
        if result is not None:
            self._pins(result).inc()

    def _steps(self, steps: Sequence[str]) -> None:
        """Count a degraded slate; `steps`: the codes in its answer, without arms."""
        for step in steps:
            self._degraded(step).inc()
        if not _SPARSE.issuperset(steps):
            self._lacking.inc()

    def events(self, result: str, count: int) -> None:
        """Count events that were acknowledged, refused, or given up (unavailable)."""
        if count:
            self._events(result).inc(count)

    def unattributed(self, reason: str) -> None:
        """Count a recommendation id that does not count."""
        self._unattributed(reason).inc()

    def state(self, revision: int, models: int, age_s: float) -> None:
        """Report what this replica serves, the age of its experiment state, and its memory and CPU time."""
        self._gauges.revision.set(revision)
        self._gauges.models.set(models)
        self._gauges.state_age.set(age_s)
        with self._process.oneshot():
            self._gauges.memory.set(self._process.memory_info().rss)
            self._gauges.cpu.set(sum(self._process.cpu_times()[:2]))

    def catalogue(self, items: int, champion_only: bool) -> None:
        """Report how many items may be shown, and whether only the champion serves."""
        self._gauges.items.set(items)
        self._gauges.champion_only.set(champion_only)

    def text(self) -> bytes:
        """The exposed metrics in Prometheus text format."""
        return generate_latest(self.exposed)
