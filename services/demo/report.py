"""The headless report: every claim of the story, checked against what was decided and what shoppers saw."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.demo.actions import BETTER, BROKEN, CHAMPION, ENOUGH, MOVED, TEXT
from services.demo.state import Board, Json

FIRST_SLATE_S = 60.0
MOST_ERRORS = 0.001  # share of requests
UNCHANGED = 0.04  # share of clicks on new items after which ALS keeps its slate (infra/adr/0010)
SURE = 3.0  # standard errors between two arms' true values


@dataclass(frozen=True, slots=True)
class Claim:
    """Something the demo promises, and whether it happened."""

    name: str
    holds: bool
    seen: str


def report(board: Board, origins: list[str], ran_s: float, failure: str | None) -> dict[str, Any]:
    """JSON-ready. `failure`: why the story broke off, None if it came to its end."""
    with board.lock:
        removal = removal_of(board, BROKEN, origins)
        found = {
            "ran_s": round(ran_s, 1),
            "first_slate_s": board.facts.get("first_slate_s"),
            "facts": dict(board.facts),
            "steps": [
                {"title": s.title, "from_s": s.started_s, "to_s": s.ended_s, "note": s.note}
                for s in board.steps
            ],
            "notices": [{"at_s": round(at_s, 1), "notice": notice} for at_s, notice in board.notices],
            "weights": [{"at_s": round(at_s, 1), "shares": shares} for at_s, shares in board.weights],
            "truth": truth_of(board.shoppers),
            "requests": board.shoppers.get("requests", {}),
            "errors": board.shoppers.get("errors", {}),
            "sessions": board.shoppers.get("sessions", {}),
            "degraded": board.shoppers.get("degraded", {}),
            "click_to_slate": board.shoppers.get("click_to_slate", {}),
            "rollback": removal,
            "failure": failure,
        }
        claims = claims_of(board, found)
    found["claims"] = [{"claim": c.name, "holds": c.holds, "seen": c.seen} for c in claims]
    found["happened"] = failure is None and all(claim.holds for claim in claims)
    return found


def truth_of(shoppers: Json) -> dict[str, Any]:
    """True worth of each arm's first slates, the better of the two models that must be told apart, how
    surely."""
    worth = {
        arm: row for arm, row in shoppers.get("truth", {}).items() if arm in (CHAMPION, BETTER, TEXT, BROKEN)
    }
    best = sorted((arm for arm in worth if arm != BROKEN), key=lambda arm: -worth[arm]["mean"])
    if len(best) < 2:
        return {"arms": worth, "better": None}
    ahead, behind = worth[best[0]], worth[CHAMPION if best[0] != CHAMPION else best[1]]
    error = (ahead["standard_error"] ** 2 + behind["standard_error"] ** 2) ** 0.5
    gap = ahead["mean"] - behind["mean"]
    return {
        "arms": worth,
        "better": best[0],
        "by": round(gap, 5),
        "standard_errors": round(gap / max(error, 1e-9), 1),
    }


def removal_of(board: Board, arm: str, origins: list[str]) -> dict[str, Any] | None:
    """The rollback of `arm`: who, rule, numbers, times, and who answered before and after, by replica."""
    decision = board.newest("rollback", arm)
    if decision is None:
        return None
    confirmed = board.confirmed(decision["revision"])
    entered = board.newest("enter", arm)
    return {
        "arm": arm,
        "rule": decision["rule"],
        "author": decision["author"],
        "reason": decision["reason"],
        "evidence": decision["evidence"],
        "positions": decision["positions"],
        "detail": decision["detail"],
        "decided_at_ms": decision["received_at"],
        "seconds_after_entering": (decision["received_at"] - entered["received_at"]) / 1e3
        if entered
        else None,
        "confirmed_at_ms": confirmed["received_at"] if confirmed else None,
        "confirmed_by": confirmed["detail"].get("replicas") if confirmed else None,
        "served_before": _served(board.shoppers, origins, arm, None, decision["received_at"] / 1e3),
        "served_after": _served(board.shoppers, origins, arm, _after_s(confirmed), None),
    }


def claims_of(board: Board, found: Mapping[str, Any]) -> list[Claim]:
    """Each claim with what was seen."""
    return [
        _first_slate(found),
        _moved(board, found["truth"]),
        _no_errors(found),
        _clicks_change_slates(found["click_to_slate"]),
        _rolled_back(found["rollback"]),
        _served_before(found["rollback"]),
        _gone_after(found["rollback"]),
    ]


def _first_slate(found: Mapping[str, Any]) -> Claim:
    seconds = found["first_slate_s"]
    return Claim(
        f"the first whole slate within {FIRST_SLATE_S:g} s",
        seconds is not None and seconds <= FIRST_SLATE_S,
        f"{seconds} s",
    )


def _moved(board: Board, truth: Mapping[str, Any]) -> Claim:
    better, sure = truth["better"], truth.get("standard_errors", 0.0)
    weight = board.weight(better) if better else 0.0
    return Claim(
        f"the arm that is better by the world's truth ended with over {MOVED:g} of the traffic",
        bool(better) and better != CHAMPION and sure >= SURE and weight > MOVED,
        f"{better}, {sure} standard errors ahead, ended with {weight:.2f}",
    )


def _no_errors(found: Mapping[str, Any]) -> Claim:
    sent = sum(kind["sent"] for kind in found["requests"].values())
    errors = sum(found["errors"].values())
    return Claim(
        f"requests were answered, at most {MOST_ERRORS:.1%} failed",
        sent >= 1_000 and errors <= MOST_ERRORS * sent,
        f"{errors} of {sent} failed",
    )


def most_unchanged(clicks: int) -> int:
    """How many of `clicks` may leave the slate as it was: UNCHANGED of them and three standard deviations.

    >>> most_unchanged(25), most_unchanged(100), most_unchanged(400)
    (3, 9, 27)
    """
    return int(UNCHANGED * clicks + 3 * (UNCHANGED * (1 - UNCHANGED) * clicks) ** 0.5)


def _clicks_change_slates(delays: Mapping[str, Any]) -> Claim:
    """Popularity is the same for everybody, so only a personal model can be held to it."""
    personal = delays.get("by_arm", {}).get(BETTER, {"n": 0, "unchanged": 0})
    n, unchanged = personal["n"], personal["unchanged"]
    return Claim(
        f"a click on an item new to the shopper changes the other items of the next slate of {BETTER}",
        n >= 20 and unchanged <= most_unchanged(n + unchanged),
        f"{n} did (p50 {personal.get('p50_ms')} ms, p99 {personal.get('p99_ms')} ms), {unchanged} did not",
    )


def _rolled_back(removal: Mapping[str, Any] | None) -> Claim:
    seen = "no rollback" if removal is None else f"{removal['rule']}: {removal['reason']}"
    holds = removal is not None and removal["rule"] == "click-race" and removal["confirmed_at_ms"] is not None
    return Claim(
        "the click race rolled the broken challenger back, and every replica confirmed it", holds, seen
    )


def _served_before(removal: Mapping[str, Any] | None) -> Claim:
    before = removal["served_before"] if removal else {}
    holds = bool(before) and all(row["of_arm"] > 0 and row["answers"] >= ENOUGH for row in before.values())
    return Claim(f"every replica had served it among at least {ENOUGH} answers", holds, str(before))


def _gone_after(removal: Mapping[str, Any] | None) -> Claim:
    after = removal["served_after"] if removal else {}
    holds = bool(after) and all(row["of_arm"] == 0 and row["answers"] >= ENOUGH for row in after.values())
    return Claim(
        f"none of at least {ENOUGH} answers of every replica was its own afterwards", holds, str(after)
    )


def _after_s(confirmed: Json | None) -> float:
    return confirmed["received_at"] / 1e3 + 1.0 if confirmed else float("inf")


def _served(
    shoppers: Json, origins: list[str], arm: str, since_s: float | None, until_s: float | None
) -> dict[str, dict[str, int]]:
    """{origin: {"answers", "of_arm"}} of what shoppers were answered within these seconds."""
    found = {origin: {"answers": 0, "of_arm": 0} for origin in origins}
    for second, origin, name, n in shoppers.get("served", []):
        if (since_s is None or second >= since_s) and (until_s is None or second < until_s):
            found[origin]["answers"] += n
            found[origin]["of_arm"] += n if name == arm else 0
    return found
