"""Time series of an experiment: points for the plots, one for each decision. Pure; all numbers are from the
log."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta

from experiments.lifecycle.decisions import ArmEvidence, Decision

REALISED_UNITS = 200  # a realised share is over the last looks with at least this many new units together
UNMARKED_KINDS = ("allocate", "attempt")  # routine decisions, which the plots do not mark
ARM_FIELDS = ("n", "s", "rate", "posterior_mean", "low", "high", "p_best", "fallback")
RACE_FIELDS = ("arm", "against", "index", "from_version", "alpha", "log_e", "log_threshold")

Point = dict[str, Any]


def is_look(decision: Decision) -> bool:
    """True if the decision contains the counts of the arms, as a look of the decider does."""
    return bool(decision.evidence.arms)


def counts(decision: Decision) -> dict[str, int]:
    """Counted units of each arm at a look."""
    return {name: arm.n or 0 for name, arm in decision.evidence.arms.items()}


class TimeAxis:
    """Points of one experiment, extended as decisions arrive. Extending in parts gives the same points."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._looks: list[dict[str, int]] = []  # counts of the trailing looks, oldest first

    def extend(self, decisions: Iterable[Decision]) -> None:
        """Append a point for each decision, oldest first."""
        for decision in decisions:
            realised = self._realised(counts(decision)) if is_look(decision) else None
            self.points.append(point(decision, realised))

    def _realised(self, seen: dict[str, int]) -> dict[str, float] | None:
        # A look contains live arms only; an arm that returns has the units it had when it was retired.
        now = (self._looks[-1] if self._looks else {}) | seen
        self._looks.append(now)
        # Drop the oldest look only while the next one leaves enough units, so that the window depends on
        # the past alone.
        while len(self._looks) > 2 and _new_units(self._looks[1], now) >= REALISED_UNITS:
            self._looks.pop(0)
        return realised_share(self._looks[0], now)


def _new_units(before: Mapping[str, int], now: Mapping[str, int]) -> int:
    return sum(max(0, n - before.get(arm, 0)) for arm, n in now.items())


def realised_share(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, float] | None:
    """Each arm's share of the units counted between two looks; None if there are none."""
    total = _new_units(before, now)
    if total == 0:
        return None
    return {arm: max(0, n - before.get(arm, 0)) / total for arm, n in now.items()}


def point(decision: Decision, realised: Mapping[str, float] | None) -> Point:
    """One decision on the time axis, ready for JSON. `at` in ms, shares in [0, 1], `log_e` in nats."""
    return {
        "revision": decision.revision,
        "at": decision.received_at,
        "kind": decision.kind,
        "rule": decision.rule,
        "reason": decision.reason,
        "weights_version": decision.weights_version,
        "weights": dict(decision.weights),
        "realised": realised,
        "arms": {name: numbers_of(arm) for name, arm in decision.evidence.arms.items()},
        "races": [
            {name: getattr(race, name) for name in RACE_FIELDS}
            for race in decision.evidence.races
            if race.log_e is not None and race.log_threshold is not None
        ],
    }


def numbers_of(arm: ArmEvidence) -> dict[str, Any]:
    """An arm's numbers at a look, None where missing; mean, low and high are all present or all None."""
    numbers = {name: getattr(arm, name) for name in ARM_FIELDS}
    whole = None not in (numbers["posterior_mean"], numbers["low"], numbers["high"])
    return numbers if whole else numbers | {"posterior_mean": None, "low": None, "high": None}


def thin(points: Sequence[Point], limit: int) -> list[Point]:
    """At most about `limit` points: all marked decisions, and looks at equal distances, always the newest."""
    marks = [p for p in points if p["kind"] not in UNMARKED_KINDS]
    looks = [p for p in points if p["kind"] in UNMARKED_KINDS]
    room = max(1, limit - len(marks))
    if len(looks) > room:
        looks = [looks[(i + 1) * len(looks) // room - 1] for i in range(room)]
    return sorted(marks + looks, key=lambda p: p["revision"])


def density(mean: float, low: float, high: float, points: int = 160) -> dict[str, list[float]] | None:
    """The Beta density with this mean and this central 95 % interval: {"x": rates, "y": density}.

    A decision contains mean and interval of each posterior, which determine the Beta distribution. None if
    they don't, say for an interval without width.
    """
    try:
        shape = beta_shape(mean, low, high)
        if shape is None:
            return None
        left, right = beta.ppf([0.0005, 0.9995], *shape)
        xs = np.linspace(left, right, points)
        return {"x": xs.tolist(), "y": beta.pdf(xs, *shape).tolist()}
    except (ArithmeticError, ValueError):  # no float can represent the result
        return None


def beta_shape(mean: float, low: float, high: float) -> tuple[float, float] | None:
    """(a, b) of the Beta distribution with this mean and a central 95 % interval as wide as high − low."""
    if not 0.0 < mean < 1.0 or not 0.0 <= low < high <= 1.0:
        return None

    def excess(log10_total: float) -> float:
        total = 10.0**log10_total
        ends = beta.ppf([0.025, 0.975], mean * total, (1 - mean) * total)
        return float(ends[1] - ends[0]) - (high - low)

    narrowest, widest = 9.0, -math.log10(min(mean, 1 - mean))
    while excess(widest) < 0:  # the interval widens as the total shrinks
        widest -= 0.25
        if widest < -1.0:
            return None
    if excess(narrowest) > 0:
        return None
    total = 10.0 ** brentq(excess, widest, narrowest, xtol=1e-6)
    return mean * total, (1 - mean) * total
