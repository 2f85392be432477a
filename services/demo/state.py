"""What happened so far, for the screen and the report: steps, decisions, weights over time, what shoppers
saw."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]


@dataclass(slots=True)
class Step:
    """One step of the story. Seconds since the demo began; `ended_s` None: going on."""

    title: str
    started_s: float
    ended_s: float | None = None
    note: str = ""


@dataclass(slots=True)
class Board:
    """Facts, written by the story and the observer, read by the screen and the report; every access under
    `lock`.

    weights: (seconds since the beginning, {arm: share}) whenever the vector changed; state: newest state of
    the experiment; decisions: oldest first; shoppers: newest summary of the simulator; answering: names of
    the pages that have answered."""

    steps: list[Step] = field(default_factory=list)
    notices: list[tuple[float, str]] = field(default_factory=list)
    state: Json = field(default_factory=dict)
    decisions: list[Json] = field(default_factory=list)
    weights: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    shoppers: Json = field(default_factory=dict)
    answering: set[str] = field(default_factory=set)
    rates: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def saw_decisions(self, decisions: list[Json], began_ms: int) -> None:
        """Decisions newly read from the log, oldest first."""
        with self.lock:
            self.decisions.extend(decisions)
            for decision in decisions:
                shares = dict(decision["weights"])
                if not self.weights or self.weights[-1][1] != shares:
                    self.weights.append(((decision["received_at"] - began_ms) / 1e3, shares))

    def saw_shoppers(self, summary: Json) -> None:
        """A newer summary of the simulator; request rates are taken against the one before."""
        with self.lock:
            before, self.shoppers = self.shoppers, summary
            passed_s = summary.get("elapsed_s", 0.0) - before.get("elapsed_s", 0.0)
            if passed_s > 0:
                answered = _answered(summary) - _answered(before)
                self.rates = {"requests_per_s": answered / passed_s}

    def revision(self) -> int:
        """Of the newest decision read."""
        with self.lock:
            return self.decisions[-1]["revision"] if self.decisions else 0

    def weight(self, arm: str) -> float:
        """Share of `arm` now; 0 if it is not in the experiment."""
        with self.lock:
            return self.weights[-1][1].get(arm, 0.0) if self.weights else 0.0

    def newest(self, kind: str, arm: str | None = None) -> Json | None:
        """The last decision of a kind (about an arm)."""
        with self.lock:
            for decision in reversed(self.decisions):
                if decision["kind"] == kind and arm in (None, decision["detail"].get("arm")):
                    return decision
        return None

    def confirmed(self, revision: int) -> Json | None:
        """The decision that says every replica serves what `revision` decided."""
        with self.lock:
            for decision in self.decisions:
                if decision["kind"] == "confirm" and decision["detail"].get("confirms") == revision:
                    return decision
        return None

    def truth(self) -> Json:
        """True worth of first slates by arm: {"n", "mean", "standard_error"}."""
        return self.shoppers.get("truth", {})

    def sessions(self) -> int:
        """Sessions of shoppers that are over."""
        return sum(row["sessions"] for row in self.shoppers.get("sessions", {}).values())

    def served(self, arm: str, since_s: float = 0.0) -> int:
        """Answers of `arm` that shoppers got since `since_s` (seconds since the epoch)."""
        rows = self.shoppers.get("served", [])
        return sum(n for second, _, name, n in rows if second >= since_s and name == arm)

    def answers(self, origins: list[str], since_s: float) -> int:
        """Answers since `since_s` of the replica that answered least."""
        counts = dict.fromkeys(origins, 0)
        for second, origin, _, n in self.shoppers.get("served", []):
            counts[origin] += n if second >= since_s else 0
        return min(counts.values())


def _answered(summary: Json) -> int:
    return sum(kind["sent"] for kind in summary.get("requests", {}).values())
