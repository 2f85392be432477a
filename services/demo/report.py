"""Report of a headless demo: every check of the story, on what was decided and what shoppers saw."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec

from experiments.lifecycle.decisions import ConfirmDetail, Decision
from services.demo.actions import BETTER, BROKEN, CHAMPION, MIN_SAMPLE, MOST_TRAFFIC, TEXT
from services.demo.state import DemoState, Json, Served
from services.simulator.measurements import SlateValue

FIRST_SLATE_S = 60.0
MAX_FAILED = 0.001  # share of requests
UNCHANGED = 0.04  # share of clicks on new items after which ALS keeps its slate (infra/adr/0010)
SIGNIFICANT = 3.0  # standard errors between two arms' true values


@dataclass(frozen=True, slots=True)
class Check:
    """A statement about the story, whether it holds, and what was observed."""

    name: str
    holds: bool
    seen: str


class Truth(TypedDict, total=False):
    """True value of each arm's first slates; the better arm, its lead and how significant that is."""

    arms: dict[str, SlateValue]
    better: str | None
    by: float
    standard_errors: float


@dataclass(frozen=True, slots=True)
class Removal:
    """The rollback of an arm, its confirmation, and the slates before and after, by replica."""

    arm: str
    decision: Decision
    confirmed: Decision | None
    before: dict[str, Served]
    after: dict[str, Served]

    def as_json(self, entered: Decision | None) -> Json:
        """Rule, evidence, times and slates. `entered`: the arm's entry."""
        decision, confirmed, decided_ms = self.decision, self.confirmed, self.decision.received_at
        same = ("rule", "author", "reason", "evidence", "detail")
        detail = confirmed.detail if confirmed else None
        return {
            "arm": self.arm,
            **{name: msgspec.to_builtins(getattr(decision, name)) for name in same},
            "positions": dict(decision.positions),
            "decided_at_ms": decided_ms,
            "seconds_after_entering": (decided_ms - entered.received_at) / 1e3 if entered else None,
            "confirmed_at_ms": confirmed.received_at if confirmed else None,
            "confirmed_by": list(detail.replicas) if isinstance(detail, ConfirmDetail) else None,
            "served_before": self.before,
            "served_after": self.after,
        }


def report(state: DemoState, replicas: list[str], ran_s: float, failure: str | None) -> dict[str, Any]:
    """The report, ready for JSON. `failure`: why the story broke off; None if it reached its end."""
    with state.lock:
        truth, removal = truth_of(state.slate_values()), removal_of(state, BROKEN, replicas)
        checks = checks_of(state, truth, removal)
        measured = ("requests", "errors", "sessions", "degraded", "click_to_slate")
        return {
            "ran_s": round(ran_s, 1),
            "first_slate_s": state.facts.get("first_slate_s"),
            "facts": dict(state.facts),
            "steps": [
                {"title": s.title, "from_s": s.started_s, "to_s": s.ended_s, "note": s.note}
                for s in state.steps
            ],
            "notices": [{"at_s": round(at_s, 1), "notice": notice} for at_s, notice in state.notices],
            "weights": [{"at_s": round(at_s, 1), "shares": shares} for at_s, shares in state.weights],
            "truth": truth,
            **{name: state.shoppers.get(name, {}) for name in measured},
            "rollback": removal.as_json(state.newest("enter", BROKEN)) if removal else None,
            "failure": failure,
            "checks": [{"check": c.name, "holds": c.holds, "seen": c.seen} for c in checks],
            "happened": failure is None and all(check.holds for check in checks),
        }


def truth_of(values: Mapping[str, SlateValue]) -> Truth:
    """Compare the true values of the arms: the best one against the champion or, if the champion is best,
    against the second best. The broken challenger is left out."""
    arms = {arm: row for arm, row in values.items() if arm in (CHAMPION, BETTER, TEXT, BROKEN)}
    best = sorted((arm for arm in arms if arm != BROKEN), key=lambda arm: -arms[arm]["mean"])
    if len(best) < 2:
        return {"arms": arms, "better": None}
    ahead, behind = arms[best[0]], arms[CHAMPION if best[0] != CHAMPION else best[1]]
    error = (ahead["standard_error"] ** 2 + behind["standard_error"] ** 2) ** 0.5
    gap = ahead["mean"] - behind["mean"]
    return {
        "arms": arms,
        "better": best[0],
        "by": round(gap, 5),
        "standard_errors": round(gap / max(error, 1e-9), 1),
    }


def removal_of(state: DemoState, arm: str, replicas: list[str]) -> Removal | None:
    """The rollback of `arm`; None if there was none."""
    decision = state.newest("rollback", arm)
    if decision is None:
        return None
    confirmed = state.confirmation(decision.revision)
    after_s = confirmed.received_at / 1e3 + 1.0 if confirmed else float("inf")
    before = state.served(replicas, arm, until_s=decision.received_at / 1e3)
    return Removal(arm, decision, confirmed, before, state.served(replicas, arm, since_s=after_s))


def checks_of(state: DemoState, truth: Truth, removal: Removal | None) -> list[Check]:
    """All checks of the story."""
    first_s, shoppers = state.facts.get("first_slate_s"), state.shoppers
    better, lead = truth.get("better"), truth.get("standard_errors", 0.0)
    weight = state.weight(better) if better else 0.0
    sent = sum(kind["sent"] for kind in shoppers.get("requests", {}).values())
    failed = sum(shoppers.get("errors", {}).values())
    return [
        Check(
            f"the first complete slate was served within {FIRST_SLATE_S:g} s",
            isinstance(first_s, float) and first_s <= FIRST_SLATE_S,
            f"{first_s} s",
        ),
        Check(
            f"the arm with the truly better slates ended with more than {MOST_TRAFFIC:.0%} of the traffic",
            better not in (None, CHAMPION) and lead >= SIGNIFICANT and weight > MOST_TRAFFIC,
            f"{better}, ahead by {lead} standard errors, ended with {weight:.0%}",
        ),
        Check(
            f"at most {MAX_FAILED:.1%} of the requests failed",
            sent >= 1_000 and failed <= MAX_FAILED * sent,
            f"{failed} of {sent} failed",
        ),
        _clicks_change_slates(shoppers.get("click_to_slate", {})),
        *_rollback_checks(removal),
    ]


def most_unchanged(clicks: int) -> int:
    """How many of `clicks` may leave the slate unchanged: the share UNCHANGED and three standard deviations.

    >>> most_unchanged(25), most_unchanged(100), most_unchanged(400)
    (3, 9, 27)
    """
    return int(UNCHANGED * clicks + 3 * (UNCHANGED * (1 - UNCHANGED) * clicks) ** 0.5)


def _clicks_change_slates(delays: Json) -> Check:
    """Only a personal model is checked, because popularity is the same for every shopper."""
    personal = delays.get("by_arm", {}).get(BETTER, {"n": 0, "unchanged": 0})
    n, unchanged = personal["n"], personal["unchanged"]
    return Check(
        f"a click on an item new to the shopper changes the other items of the next slate of {BETTER}",
        n >= 20 and unchanged <= most_unchanged(n + unchanged),
        f"{n} did (p50 {personal.get('p50_ms')} ms, p99 {personal.get('p99_ms')} ms), {unchanged} did not",
    )


def _rollback_checks(removal: Removal | None) -> list[Check]:
    rolled_back = "the click race rolled the broken challenger back, and every replica confirmed it"
    served = f"before, every replica served it in at least {MIN_SAMPLE} slates of all arms"
    gone = f"after that, none of at least {MIN_SAMPLE} slates of every replica came from it"
    if removal is None:
        return [Check(name, False, "no rollback") for name in (rolled_back, served, gone)]
    decision, before, after = removal.decision, removal.before.values(), removal.after.values()
    raced = decision.rule == "click-race" and removal.confirmed is not None
    used = all(row["of_arm"] > 0 and row["answers"] >= MIN_SAMPLE for row in before)
    unused = all(row["of_arm"] == 0 and row["answers"] >= MIN_SAMPLE for row in after)
    return [
        Check(rolled_back, raced, f"{decision.rule}: {decision.reason}"),
        Check(served, used, str(removal.before)),
        Check(gone, unused, str(removal.after)),
    ]
