"""State of the demo for the screen and the report: steps, decisions, weights over time, what shoppers saw."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from experiments.lifecycle.decisions import ConfirmDetail, Decision, EnterDetail, RollbackDetail
from services.simulator.measurements import SlateValue

Json = Mapping[str, Any]


class Served(TypedDict):
    """Slates of a replica, and how many of them came from the arm in question."""

    answers: int
    of_arm: int


@dataclass(slots=True)
class Step:
    """One step of the story. Seconds since the demo began; `ended_s` is None while it runs."""

    title: str
    started_s: float
    ended_s: float | None = None
    note: str = ""


@dataclass(slots=True)
class DemoState:
    """Facts that story and observer write and screen and report read, every access under `lock`.

    began_ms: when the demo began; weights: (seconds since then, {arm: share}) at each change; experiment: its
    newest state; decisions: oldest first; shoppers: newest summary of the simulator; responding: names of
    the pages that have responded."""

    began_ms: int = 0
    steps: list[Step] = field(default_factory=list)
    notices: list[tuple[float, str]] = field(default_factory=list)
    experiment: Json = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    weights: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    shoppers: Json = field(default_factory=dict)
    responding: set[str] = field(default_factory=set)
    requests_per_s: float = 0.0
    facts: dict[str, float | str] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add_decisions(self, decisions: list[Decision]) -> None:
        """Append decisions, oldest first."""
        with self.lock:
            self.decisions.extend(decisions)
            for decision in decisions:
                shares = dict(decision.weights)
                if not self.weights or self.weights[-1][1] != shares:
                    self.weights.append(((decision.received_at - self.began_ms) / 1e3, shares))

    def set_shoppers(self, summary: Json) -> None:
        """Replace the simulator's summary; the request rate is measured between the two."""
        with self.lock:
            before, self.shoppers = self.shoppers, summary
            passed_s = summary.get("elapsed_s", 0.0) - before.get("elapsed_s", 0.0)
            if passed_s > 0:
                self.requests_per_s = (_requests(summary) - _requests(before)) / passed_s

    def revision(self) -> int:
        """Revision of the newest decision; 0 without any."""
        with self.lock:
            return self.decisions[-1].revision if self.decisions else 0

    def weight(self, arm: str) -> float:
        """Current share of `arm`; 0 if it is not in the experiment."""
        with self.lock:
            return self.weights[-1][1].get(arm, 0.0) if self.weights else 0.0

    def newest(self, kind: str, arm: str) -> Decision | None:
        """The newest entry or rollback of an arm."""
        with self.lock:
            for decision in reversed(self.decisions):
                detail = decision.detail
                about = detail.arm if isinstance(detail, EnterDetail | RollbackDetail) else None
                if decision.kind == kind and about == arm:
                    return decision
        return None

    def confirmation(self, revision: int) -> Decision | None:
        """The decision that confirms that every replica serves `revision`."""
        with self.lock:
            for decision in self.decisions:
                detail = decision.detail
                if isinstance(detail, ConfirmDetail) and detail.confirms == revision:
                    return decision
        return None

    def slate_values(self) -> Mapping[str, SlateValue]:
        """True value of first slates, by arm."""
        values: Mapping[str, SlateValue] = self.shoppers.get("truth", {})
        return values

    def sessions(self) -> int:
        """Number of completed sessions."""
        return sum(row["sessions"] for row in self.shoppers.get("sessions", {}).values())

    def served(
        self, replicas: list[str], arm: str, since_s: float = 0.0, until_s: float = float("inf")
    ) -> dict[str, Served]:
        """Slates that shoppers got within these seconds since the epoch, by replica."""
        counts: dict[str, Served] = {replica: {"answers": 0, "of_arm": 0} for replica in replicas}
        for second, replica, name, n in self.shoppers.get("served", []):
            if since_s <= second < until_s:
                counts[replica]["answers"] += n
                counts[replica]["of_arm"] += n if name == arm else 0
        return counts


def _requests(summary: Json) -> int:
    return sum(kind["sent"] for kind in summary.get("requests", {}).values())
