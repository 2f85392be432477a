"""What /metrics says. One registry an application; with several workers the files of prometheus_client are
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
# Times are told in such parts of a second: sums of them are exact, so whatever order files are added in, a
# total never falls by a rounding, which Prometheus would take for a restart.
_GRAINS = 2**20
_PIN_OF = {"pin_unreachable": "unreachable", "overridden": "overridden"}
SHED = ("overload", "rate_limit", "connections")
# What the catalogue does not hold: told by step, but nothing is broken.
_SPARSE = frozenset({"fewer_eligible", "category_share"})
_NO_PIN = "r:"  # units of one request keep none, see experiments.allocation.assignment.unit_id


class _Gauges:
    """What a replica is and takes, by its name: not added up over workers, and gone with them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, told: str) -> Gauge:
            return Gauge(name, told, ["replica"], registry=registry, multiprocess_mode="liveall")

        self.revision = gauge("ringside_served_revision", "Revision of the experiment being served.")
        self.models = gauge("ringside_models_loaded", "Models in memory.")
        self.items = gauge("ringside_catalogue_items", "Items that may be shown.")
        self.state_age = gauge("ringside_state_age_seconds", "Since the experiment state was last read.")
        self.alone = gauge("ringside_champion_only", "1 while only the champion serves.")
        self.turned = gauge("ringside_event_loop_turn_timestamp_seconds", "When the event loop last turned.")
        self.tasks = gauge("ringside_event_loop_tasks", "Tasks of the event loop, requests among them.")
        self.memory = gauge("ringside_resident_memory_bytes", "Memory of the replica.")
        self.cpu = gauge("ringside_cpu_used_seconds", "CPU time of the replica since it started.")


class Metrics:
    """Counters and gauges of one replica; children of labels are looked up once, because a look-up costs 2
    µs and an increment 1 µs."""

    def __init__(self, *, merged: bool = False) -> None:
        """merged: /metrics answers for all workers, from the files that they share."""
        self._process = psutil.Process()
        registry = CollectorRegistry()
        self.exposed = (
            worker_metrics.merged(Path(os.environ[worker_metrics.MULTIPROCESS_DIR])) if merged else registry
        )

        def counter(name: str, told: str, *labels: str) -> Counter:
            return Counter(name, told, labels, registry=registry)

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
        self._of = _Gauges(registry)
        self._seconds_of: dict[str, Histogram] = {}
        self._responses_of: dict[tuple[str, int], Counter] = {}
        self._slates_of: dict[str, Counter] = {}
        self._degraded_of: dict[str, Counter] = {}
        self._pins_of = {name: self._pins.labels(name) for name in ("made", "kept", *_PIN_OF.values())}
        self._begin()

    def _begin(self) -> None:
        """Count from 0 on: a first one must be seen as an increase."""
        for reason in SHED:
            self._shed.labels(reason)
        for result in ("acknowledged", "refused", "unavailable"):
            self._events.labels(result)

    def response(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
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
        """The event loop turns, and has so many tasks: metrics alone would be told by other threads, and by a
        supervisor, when it no longer does."""
        self._of.turned.labels(replica).set(now_ms / 1_000)
        self._of.tasks.labels(replica).set(tasks)

    def shed(self, reason: str) -> None:
        """Refused before any work: a request by `overload` or the `rate_limit` of its key or client, or one
        of a client's too many `connections`."""
        self._shed.labels(reason).inc()

    def slate(self, exposure: Exposure, degraded: str | None) -> None:
        """A slate was made; `degraded` as in its answer."""
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
        """A slate lacked something; `steps`: the codes in its answer, without arms."""
        for step in steps:
            counter = self._degraded_of.get(step)
            (counter or self._degraded_of.setdefault(step, self._degraded.labels(step))).inc()
        if not _SPARSE.issuperset(steps):
            self._lacking.inc()

    def events(self, result: str, count: int) -> None:
        """Events were acknowledged, refused, or given up (unavailable)."""
        if count:
            self._events.labels(result).inc(count)

    def unattributed(self, reason: str) -> None:
        """A recommendation id did not count."""
        self._unattributed.labels(reason).inc()

    def state(self, replica: str, revision: int, models: int, age_s: float) -> None:
        """What this replica serves, how old its knowledge is, and what it takes."""
        self._of.revision.labels(replica).set(revision)
        self._of.models.labels(replica).set(models)
        self._of.state_age.labels(replica).set(age_s)
        with self._process.oneshot():
            self._of.memory.labels(replica).set(self._process.memory_info().rss)
            self._of.cpu.labels(replica).set(sum(self._process.cpu_times()[:2]))

    def shelf(self, replica: str, items: int, alone: bool) -> None:
        """How many items may be shown, and whether the champion serves alone."""
        self._of.items.labels(replica).set(items)
        self._of.alone.labels(replica).set(alone)

    def text(self) -> bytes:
        """The exposition format of what is `exposed`."""
        return generate_latest(self.exposed)
