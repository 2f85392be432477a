"""What /metrics says. One registry an application; with several workers the files of prometheus_client are
merged."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from services.events import Exposure

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is first imported
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


class Metrics:
    """Counters and gauges of one replica; children of labels are looked up once, because a look-up costs 2
    µs."""

    def __init__(self, *, merged: bool = False) -> None:
        """merged: /metrics answers for all workers, from the files that they share."""
        self._merged = merged
        self._registry = CollectorRegistry()
        registry = self._registry
        self._seconds = Histogram(
            "ringside_http_seconds",
            "Time to answer, by route.",
            ["route"],
            buckets=_LATENCY_S,
            registry=registry,
        )
        self._responses = Counter(
            "ringside_http_responses",
            "Responses by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self._slates = Counter("ringside_slates", "Slates by assigned arm.", ["arm"], registry=registry)
        self._degraded = Counter("ringside_degraded", "Degraded slates by code.", ["code"], registry=registry)
        self._excluded = Counter("ringside_excluded", "Slates left out.", ["reason"], registry=registry)
        self.exposures_lost = Counter("ringside_exposures_lost", "Never acknowledged.", registry=registry)
        self._events = Counter("ringside_events", "Events by result.", ["result"], registry=registry)
        self._unattributed = Counter(
            "ringside_unattributed", "Events whose slate doesn't count.", ["reason"], registry=registry
        )
        self._revision = Gauge(
            "ringside_revision",
            "Revision served.",
            ["replica"],
            registry=registry,
            multiprocess_mode="liveall",
        )
        self._models = Gauge(
            "ringside_models_loaded", "Models.", ["replica"], registry=registry, multiprocess_mode="liveall"
        )
        self._state_age = Gauge(
            "ringside_state_age_seconds",
            "Since the experiment state was last read.",
            ["replica"],
            registry=registry,
            multiprocess_mode="liveall",
        )
        self._seconds_of: dict[str, Histogram] = {}
        self._responses_of: dict[tuple[str, int], Counter] = {}
        self._slates_of: dict[str, Counter] = {}

    def response(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        timer = self._seconds_of.get(route)
        if timer is None:
            timer = self._seconds_of.setdefault(route, self._seconds.labels(route))
        timer.observe(seconds)
        counter = self._responses_of.get((route, status))
        if counter is None:
            counter = self._responses_of.setdefault(
                (route, status), self._responses.labels(route, str(status))
            )
        counter.inc()

    def slate(self, exposure: Exposure) -> None:
        """A slate was made."""
        counter = self._slates_of.get(exposure.arm)
        if counter is None:
            counter = self._slates_of.setdefault(exposure.arm, self._slates.labels(exposure.arm))
        counter.inc()
        if exposure.degraded is not None:
            for code in exposure.degraded.split(","):
                self._degraded.labels(code).inc()
        if exposure.excluded is not None:
            self._excluded.labels(exposure.excluded).inc()

    def events(self, result: str, count: int) -> None:
        """Events were acknowledged, refused, or given up (unavailable)."""
        if count:
            self._events.labels(result).inc(count)

    def unattributed(self, reason: str) -> None:
        """A recommendation id did not count."""
        self._unattributed.labels(reason).inc()

    def state(self, replica: str, revision: int, models: int, age_s: float) -> None:
        """What this replica serves, and how old its knowledge is."""
        self._revision.labels(replica).set(revision)
        self._models.labels(replica).set(models)
        self._state_age.labels(replica).set(age_s)

    def text(self) -> bytes:
        """The exposition format; over all workers when they share a directory."""
        if self._merged:
            merged = CollectorRegistry()
            MultiProcessCollector(merged)
            return generate_latest(merged)
        return generate_latest(self._registry)
