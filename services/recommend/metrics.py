"""Metrics of a replica: one registry per application; with several workers, their multiprocess files are
merged."""

import os
from collections.abc import Sequence
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from services.messages.events import Exposure
from services.web import worker_metrics

_LATENCY_S = (
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
)
# Durations are rounded to this fraction of a second, so that their sums are exact in any order. Otherwise a
# total over workers could fall by a rounding error, which Prometheus would take for a restart.
_GRAINS = 2**20
_PIN_OF = {"pin_unreachable": "unreachable", "overridden": "overridden"}
SHED = ("overload", "rate_limit", "connections")
# Codes of `degraded` for a lack of items: reported by step, but nothing is broken.
_SPARSE = frozenset({"fewer_eligible", "category_share"})
_NO_PIN = "r:"  # prefix of units without a pin, see experiments.allocation.assignment.unit_id


class _Gauges:
    """Gauges of one replica, labelled with its name: not summed over workers, and gone with the replica."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["replica"], registry=registry, multiprocess_mode="liveall")

        self.revision = gauge("ringside_served_revision", "Revision of the experiment being served.")
        self.models = gauge("ringside_models_loaded", "Models in memory.")
        self.items = gauge("ringside_catalogue_items", "Items that may be shown.")
        self.state_age = gauge("ringside_state_age_seconds", "Since the experiment state was last read.")
        self.champion_only = gauge("ringside_champion_only", "1 while only the champion serves.")
        self.turned = gauge("ringside_event_loop_turn_timestamp_seconds", "When the event loop last turned.")
        self.tasks = gauge("ringside_event_loop_tasks", "Tasks of the event loop, requests among them.")
        self.memory = gauge("ringside_resident_memory_bytes", "Memory of the replica.")
        self.cpu = gauge("ringside_cpu_used_seconds", "CPU time of the replica since it started.")


class Metrics:
    """Counters and gauges of one replica. Children of labels are cached, because a lookup costs 2 µs and an
    increment 1 µs."""

    def __init__(self, *, merged: bool = False) -> None:
        """merged: /metrics reports all workers, from the files that they share."""
        self._process = psutil.Process()
        registry = CollectorRegistry()
        self.exposed = (
            worker_metrics.merged(Path(os.environ[worker_metrics.MULTIPROCESS_DIR])) if merged else registry
        )

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self._seconds = Histogram(
            "ringside_http_request_seconds",
            "Time to answer, by route.",
            ["route"],
            buckets=_LATENCY_S,
            registry=registry,
        )
        self._responses = counter(
            "ringside_http_responses", "Responses by route and status.", "route", "status"
        )
        self._shed = counter("ringside_requests_shed", "Refused before any work, by reason.", "reason")
        self._slates = counter("ringside_slates", "Slates by assigned arm.", "arm")
        self._fallbacks = counter(
            "ringside_slate_fallbacks", "Slates that another arm than the assigned one answered.", "arm"
        )
        self._degraded = counter("ringside_slates_degraded", "Degraded slates, by step.", "step")
        self._lacking = counter(
            "ringside_slates_lacking", "Slates that some step degraded, once each; not for want of items."
        )
        self._excluded = counter("ringside_slates_excluded", "Slates that don't count, by reason.", "reason")
        self._pins = counter(
            "ringside_pins", "Slates by their unit's pin: made, kept, overridden, unreachable.", "result"
        )
        self.exposures_lost = counter("ringside_exposures_lost", "Exposures that the broker never took.")
        self._events = counter("ringside_events", "Events by result.", "result")
        self._unattributed = counter(
            "ringside_events_unattributed", "Events whose recommendation id doesn't count.", "reason"
        )
        self._gauges = _Gauges(registry)
        self._seconds_of: dict[str, Histogram] = {}
        self._responses_of: dict[tuple[str, int], Counter] = {}
        self._slates_of: dict[str, Counter] = {}
        self._degraded_of: dict[str, Counter] = {}
        self._pins_of = {name: self._pins.labels(name) for name in ("made", "kept", *_PIN_OF.values())}
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        """Create counters that alerts use, so that their first increment is seen as an increase."""
        for reason in SHED:
            self._shed.labels(reason)
        for result in ("acknowledged", "refused", "unavailable"):
            self._events.labels(result)

    def response(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        timer = self._seconds_of.get(route)
        if timer is None:
            timer = self._seconds_of.setdefault(route, self._seconds.labels(route))
        timer.observe(int(seconds * _GRAINS + 0.5) / _GRAINS)
        counter = self._responses_of.get((route, status))
        if counter is None:
            counter = self._responses_of.setdefault(
                (route, status), self._responses.labels(route, str(status))
            )
        counter.inc()
        if status == 429:
            self.shed("rate_limit")

    def turned(self, replica: str, now_ms: int, tasks: int) -> None:
        """Record that the event loop turns, and its number of tasks. Other threads and a supervisor would
        report metrics even if it no longer did."""
        self._gauges.turned.labels(replica).set(now_ms / 1_000)
        self._gauges.tasks.labels(replica).set(tasks)

    def shed(self, reason: str) -> None:
        """Count what was refused before any work: a request by `overload` or `rate_limit`, or one of too many
        `connections` of a client."""
        self._shed.labels(reason).inc()

    def slate(self, exposure: Exposure, degraded: str | None) -> None:
        """Count a slate; `degraded` as in its answer."""
        counter = self._slates_of.get(exposure.arm)
        if counter is None:
            counter = self._slates_of.setdefault(exposure.arm, self._slates.labels(exposure.arm))
        counter.inc()
        if exposure.answered_by != exposure.arm:
            self._fallbacks.labels(exposure.arm).inc()
        if degraded is not None:
            self._steps([code.partition(":")[0] for code in degraded.split(",")])
        if exposure.excluded is not None:
            self._excluded.labels(exposure.excluded).inc()
        self._pin(exposure)

    def _pin(self, exposure: Exposure) -> None:
        if exposure.excluded is not None:
            result = _PIN_OF.get(exposure.excluded)
        elif exposure.unit.startswith(_NO_PIN):
            result = None
        else:
            result = "made" if exposure.first else "kept"
        if result is not None:
            self._pins_of[result].inc()

    def _steps(self, steps: Sequence[str]) -> None:
        """Count a degraded slate; `steps`: the codes in its answer, without arms."""
        for step in steps:
            counter = self._degraded_of.get(step)
            (counter or self._degraded_of.setdefault(step, self._degraded.labels(step))).inc()
        if not _SPARSE.issuperset(steps):
            self._lacking.inc()

    def events(self, result: str, count: int) -> None:
        """Count events that were acknowledged, refused, or given up (unavailable)."""
        if count:
            self._events.labels(result).inc(count)

    def unattributed(self, reason: str) -> None:
        """Count a recommendation id that does not count."""
        self._unattributed.labels(reason).inc()

    def state(self, replica: str, revision: int, models: int, age_s: float) -> None:
        """Report what this replica serves, the age of its experiment state, and its memory and CPU time."""
        self._gauges.revision.labels(replica).set(revision)
        self._gauges.models.labels(replica).set(models)
        self._gauges.state_age.labels(replica).set(age_s)
        with self._process.oneshot():
            self._gauges.memory.labels(replica).set(self._process.memory_info().rss)
            self._gauges.cpu.labels(replica).set(sum(self._process.cpu_times()[:2]))

    def catalogue(self, replica: str, items: int, champion_only: bool) -> None:
        """Report how many items may be shown, and whether only the champion serves."""
        self._gauges.items.labels(replica).set(items)
        self._gauges.champion_only.labels(replica).set(champion_only)

    def text(self) -> bytes:
        """The exposed metrics in Prometheus text format."""
        return generate_latest(self.exposed)
