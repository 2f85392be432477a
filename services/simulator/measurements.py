"""What shoppers saw: counts, latencies and click-to-slate delays, as JSON. Shoppers never read this."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_TRIED = 10
_REMEMBERED = 200_000
_SERVED_S = 600
_KEPT = 20_000  # latest values of each series: a demo left alone overnight must not grow


def quantiles(values: Iterable[float]) -> dict[str, float | int]:
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


@dataclass(slots=True)
class Moments:
    """Count, sum and sum of squares."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """One more value."""
        self.n += 1
        self.total += value
        self.squares += value * value

    def summary(self) -> dict[str, float | int]:
        """{"n", "mean", "standard_error"}."""
        mean = self.total / self.n
        variance = max(0.0, self.squares / self.n - mean * mean)
        return {"n": self.n, "mean": round(mean, 5), "standard_error": round((variance / self.n) ** 0.5, 5)}


@dataclass(slots=True)
class Measures:
    """Running counts of one simulation.

    latency_ms: by kind of request; click_to_slate_ms: by arm, from sending a click to receiving a slate
    whose other items changed; unchanged: by arm, clicks after which they had not changed at the deadline.
    served: answers by (second since the epoch, origin, arm). truth: by arm, the exact P(click) of the first
    slate of each session; arms are assigned at random, so these means compare the arms themselves, without
    the noise of clicks. clicked_before: (shopper, item).
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
    truth: dict[str, Moments] = field(default_factory=dict)
    clicked_before: set[tuple[int, str]] = field(default_factory=set)
    probing: bool = False  # somebody is timing a click just now
    skipped: int = 0  # sessions not opened: too many were open, the servers were slower than the target

    def requested(self, kind: str, latency_ms: float) -> None:
        """A request was answered, well or not."""
        self.sent[kind] += 1
        self.latency_ms[kind].append(latency_ms)

    def failed(self, kind: str, why: str) -> None:
        """A request got no answer, or one that is no success."""
        self.errors[f"{kind}: {why}"] += 1

    def skip(self) -> None:
        """A session was not opened."""
        self.skipped += 1

    def answered(self, second: int, origin: str, arm: str | None) -> None:
        """A replica answered with a slate of `arm`."""
        self.served[second, origin, arm or "none"] += 1
        if len(self.served) > _KEPT:
            for key in [key for key in self.served if key[0] < second - _SERVED_S]:
                del self.served[key]

    def first_click(self, shopper: int, item: str) -> bool:
        """Whether this shopper had not clicked this item before."""
        if len(self.clicked_before) > _REMEMBERED:
            self.clicked_before.clear()
        known = (shopper, item) in self.clicked_before
        self.clicked_before.add((shopper, item))
        return not known

    def may_probe(self, arm: str | None) -> bool:
        """Whether a click on a slate of `arm` should be timed: nobody times another one just now, and the
        arm is not one whose slates clicks never change."""
        impersonal = self.unchanged[arm or "none"] >= _TRIED and not self.click_to_slate_ms[arm or "none"]
        return not self.probing and not impersonal

    def worth(self, arm: str | None, value: float) -> None:
        """The world's truth about a first slate."""
        self.truth.setdefault(arm or "none", Moments()).add(value)

    def session_ended(self, arm: str | None, clicked: bool) -> None:
        """A session whose first slate came from `arm` is over."""
        self.sessions[arm or "none"] += 1
        self.clicked[arm or "none"] += clicked

    def summary(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
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
            "truth": {arm: moments.summary() for arm, moments in self.truth.items()},
            "served": [[*key, n] for key, n in sorted(self.served.items())],
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
