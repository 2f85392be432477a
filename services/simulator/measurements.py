"""Measurements of a simulation, as JSON: counts, latencies, delays from a click to a changed slate. Shoppers
write them and never read them."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

_TRIES = 10  # timed clicks without any effect after which an arm counts as impersonal
_REMEMBERED = 200_000  # clicks
_SERVED_S = 600
_KEPT = 20_000  # latest values of each series, so that a demo left running overnight does not grow

Number = float | int


class SlateValue(TypedDict):
    """True P(click) of first slates of an arm."""

    n: int
    mean: float
    standard_error: float


def quantiles(values: Iterable[float]) -> dict[str, Number]:
    """{"n", "p50_ms", "p99_ms", "max_ms"} of values in ms; only {"n": 0} when there are none."""
    array = np.fromiter(values, np.float64)
    if not len(array):
        return {"n": 0}
    p50, p99 = np.percentile(array, [50, 99])
    return {
        "n": len(array),
        "p50_ms": round(p50, 2),
        "p99_ms": round(p99, 2),
        "max_ms": round(array.max(), 2),
    }


def _series() -> defaultdict[str, deque[float]]:
    return defaultdict(lambda: deque(maxlen=_KEPT))


def _slate_value(sums: NDArray[np.float64]) -> SlateValue:
    """Count, mean and standard error of the mean, from count, sum and sum of squares."""
    n, total, squares = sums.tolist()
    mean = total / n
    variance = max(0.0, squares / n - mean * mean)
    return {"n": int(n), "mean": round(mean, 5), "standard_error": round((variance / n) ** 0.5, 5)}


@dataclass(slots=True)
class Measurements:
    """Running counts of one simulation.

    latency_ms: by kind of request. click_to_slate_ms: by arm, from sending a click to receiving a slate whose
    other items changed; unchanged: by arm, clicks after which they had not changed at the deadline.
    served: answers by (second since the epoch, replica, arm). slate_values: by arm, count, sum and sum of
    squares of the exact P(click) of the first slate of each session; because arms are assigned at random,
    their means compare the arms without the noise of clicks. clicked_before: (shopper, item). probing: a
    click is being timed.
    """

    sent: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    latency_ms: defaultdict[str, deque[float]] = field(default_factory=_series)
    acts: Counter[str] = field(default_factory=Counter)
    sessions: Counter[str] = field(default_factory=Counter)
    clicked: Counter[str] = field(default_factory=Counter)
    degraded: Counter[str] = field(default_factory=Counter)
    click_to_slate_ms: defaultdict[str, deque[float]] = field(default_factory=_series)
    unchanged: Counter[str] = field(default_factory=Counter)
    served: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    slate_values: defaultdict[str, NDArray[np.float64]] = field(
        default_factory=lambda: defaultdict(lambda: np.zeros(3))
    )
    clicked_before: set[tuple[int, str]] = field(default_factory=set)
    probing: bool = False
    skipped: int = 0

    def request_ended(self, kind: str, latency_ms: float) -> None:
        """Count a request that got a reply, of any status."""
        self.sent[kind] += 1
        self.latency_ms[kind].append(latency_ms)

    def session_skipped(self) -> None:
        """Count a session that was not opened, because too many were open: the servers are slower than the
        target rate."""
        self.skipped += 1

    def slate_served(self, second: int, replica: str, arm: str | None) -> None:
        """Count a slate of `arm` from a replica."""
        self.served[second, replica, arm or "none"] += 1
        if len(self.served) > _KEPT:
            for key in [key for key in self.served if key[0] < second - _SERVED_S]:
                del self.served[key]

    def is_first_click(self, shopper: int, item: str) -> bool:
        """Record a click; True if this shopper had not clicked this item before."""
        if len(self.clicked_before) > _REMEMBERED:
            self.clicked_before.clear()
        first = (shopper, item) not in self.clicked_before
        self.clicked_before.add((shopper, item))
        return first

    def may_probe(self, arm: str | None) -> bool:
        """True if a click on a slate of `arm` should be timed: no other click is being timed, and clicks have
        changed slates of this arm or have been tried only a few times."""
        name = arm or "none"
        impersonal = self.unchanged[name] >= _TRIES and not self.click_to_slate_ms[name]
        return not self.probing and not impersonal

    def add_slate_value(self, arm: str | None, value: float) -> None:
        """Add the true P(click) of the first slate of a session."""
        self.slate_values[arm or "none"] += (1.0, value, value * value)

    def session_ended(self, arm: str | None, clicked: bool) -> None:
        """Count a session whose first slate came from `arm`."""
        self.sessions[arm or "none"] += 1
        self.clicked[arm or "none"] += clicked

    def summary(self) -> dict[str, object]:
        """All measurements, ready for JSON. served: rows of [second since the epoch, replica, arm, answers];
        truth, sessions: by arm."""
        changed = [value for series in self.click_to_slate_ms.values() for value in series]
        return {
            "requests": {
                kind: {"sent": n, **quantiles(self.latency_ms[kind])} for kind, n in self.sent.items()
            },
            "errors": dict(self.errors),
            "acts": dict(self.acts),
            "sessions": {
                arm: {"sessions": n, "clicked": self.clicked[arm]} for arm, n in self.sessions.items()
            },
            "truth": {arm: _slate_value(sums) for arm, sums in self.slate_values.items()},
            "served": [(*key, n) for key, n in sorted(self.served.items())],
            "skipped_sessions": self.skipped,
            "degraded": dict(self.degraded),
            "click_to_slate": {
                **quantiles(changed),
                "by_arm": {
                    arm: {**quantiles(self.click_to_slate_ms[arm]), "unchanged": self.unchanged[arm]}
                    for arm in sorted({*self.click_to_slate_ms, *self.unchanged})
                },
            },
        }
