"""The next decision of an experiment: one constructor a kind, each with the complete weights vector and
detail.

Every constructor returns a decision that `experiment.apply` accepts on this state, or raises
IllegalTransition with the reason. Nothing is decided here: people and `experiments.decision_rules` decide.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from experiments.lifecycle.fold import IllegalTransition, apply
from experiments.lifecycle.state import Arm, Decision, Experiment, Kind, Rules
from experiments.lifecycle.transitions import NOTICE_MS

Shares = dict[str, float]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who decides, when, by which rule and from which numbers. `now_ms`: ms since the epoch, UTC."""

    author: str
    now_ms: int
    rule: str = "command"
    reason: str = ""  # empty: the constructor's own sentence
    evidence: Mapping[str, Any] = field(default_factory=dict)
    positions: Mapping[str, int] = field(default_factory=dict)
    sums_digest: str = ""
    code_version: str = ""


def start(name: str, champion: Mapping[str, str], rules: Rules, salt: str, origin: Origin) -> Decision:
    """A first champion, {"name", "model_version"}, serves everyone. `salt` makes this experiment's
    assignments its own."""
    detail = {"champion": dict(champion), "rules": asdict(rules), "salt": salt}
    decision = _record(name, "start", origin, f"{champion['name']} serves as first champion.", detail)
    return _checked(None, decision, 1, {champion["name"]: 1.0})


def enter(
    state: Experiment, arm: str, model_version: str, origin: Origin, answers: int | None = None
) -> Decision:
    """A challenger joins at weight 0. `answers`: revision of the retraining request that it settles."""
    detail = {"arm": arm, "model_version": model_version}
    if answers is not None:
        detail |= {"answers": answers}
    return _next(
        state, "enter", {**state.weights.shares, arm: 0.0}, detail, origin, f"{arm} enters as challenger."
    )


def allocate(
    state: Experiment, shares: Mapping[str, float], ramp: Mapping[str, int], units: int, origin: Origin
) -> Decision:
    """One look: `shares` as they shall be (equal to the present ones: kept). `ramp`: burn-in steps of arms
    that took one; `units`: matured units so far. Reported as updated when the look was entitled to move the
    weights."""
    updated = origin.rule != "too-few-units"
    detail = {"updated": updated, "units": units, "ramp": dict(ramp)}
    return _next(state, "allocate", dict(shares), detail, origin, "A look at the matured units.")


def rollback(state: Experiment, arm: str, origin: Origin, retrain: str = "") -> Decision:
    """A challenger (or holdback) is retired, its share goes to the champion; or a champion to its
    holdback. `retrain`: why the trainer is asked for a new model in the same record; empty: it is not."""
    out, heir = _arm(state, arm), _heir(state, arm)
    detail = {
        "arm": arm,
        "version_out": out.model_version,
        "version_in": heir.model_version,
        "restored": heir.name if out.role == "champion" else None,
    }
    if retrain:
        detail |= {"retrain": retrain}
    return _next(
        state,
        "rollback",
        _inherit(state.weights.shares, arm, heir.name),
        detail,
        origin,
        f"{arm} is taken out.",
    )


def promote(state: Experiment, arm: str, origin: Origin) -> Decision:
    """A challenger becomes champion; the old champion is its holdback at the floor, an older holdback
    retires."""
    promoted, holdback = _arm(state, arm), state.holdback()
    shares = dict(state.weights.shares)
    if holdback:
        shares = _inherit(shares, holdback.name, arm)
    floor = state.rules.floor if len(shares) == 2 else state.rules.floor_many
    others = {name: w for name, w in shares.items() if name not in (arm, state.champion)}
    room = 1 - floor - state.rules.champion_floor
    scale = min(1.0, room / sum(others.values())) if sum(others.values()) else 1.0
    shares = {name: w * scale for name, w in others.items()} | {state.champion: floor}
    detail = {
        "arm": arm,
        "version_out": _arm(state, state.champion).model_version,
        "version_in": promoted.model_version,
    }
    return _next(state, "promote", _rest_to(shares, arm), detail, origin, f"{arm} becomes champion.")


def undo(state: Experiment, reverts: int, origin: Origin) -> Decision:
    """Roles return to what they were before revision `reverts`. An arm that comes back has no weight until
    the next look; if the champion changes, the two change shares."""
    found = state.reversals.get(reverts)
    before = found.before if found else {}
    live = {name for name, arm in state.arms.items() if before.get(name, arm.role) != "retired"}
    shares = {name: state.weights.shares.get(name, 0.0) for name in live}
    champion = next((name for name, role in before.items() if role == "champion"), state.champion)
    if champion != state.champion:
        kept = state.weights.shares
        swapped = {champion: kept.get(state.champion, 0.0), state.champion: kept.get(champion, 0.0)}
        shares |= {name: share for name, share in swapped.items() if name in live}
    reason = f"Revision {reverts} is undone."
    return _next(state, "undo", _rest_to(shares, champion), {"reverts": reverts}, origin, reason)


def pause(state: Experiment, origin: Origin) -> Decision:
    """The champion serves alone until `resume`."""
    return _next(state, "pause", champion_only(state), {}, origin, "Paused: the champion serves alone.")


def resume(state: Experiment, origin: Origin, rules: Rules | None = None) -> Decision:
    """Go on after a pause (with the shares of before, less what was retired meanwhile; held, if it was held
    before) or a hold (acknowledging its causes). New rules start every race anew, at a weights version of
    their own."""
    paused = state.status == "paused"
    shares = _before_pause(state) if paused else dict(state.weights.shares)
    detail = {"accepts": [] if paused else list(state.causes)} | ({"rules": asdict(rules)} if rules else {})
    reason = "Resumed with new rules" if rules else "Resumed"
    held = f"; held by {state.held_by}, as before the pause" if paused and state.held_by else ""
    return _next(state, "resume", shares, detail, origin, f"{reason}{held}.")


def recount(state: Experiment, from_ms: int, dropped: Mapping[str, Any], origin: Origin) -> Decision:
    """Drop the sums; count anew, from the log (`from_ms` 0) or only units first exposed at `from_ms` or
    later. `dropped`: what the sums were, for the record."""
    detail = {"from_ms": from_ms, "dropped": dict(dropped)}
    where = "from the log" if from_ms == 0 else f"from {_utc(from_ms)} on"
    reason = f"The sums are dropped; units are counted anew {where}."
    return _next(state, "recount", dict(state.weights.shares), detail, origin, reason)


def recount_from(state: Experiment, now_ms: int) -> int:
    """The earliest moment from which counting can start anew if it is decided at `now_ms`, ms."""
    return now_ms + round(1_000 * state.rules.lateness_s) + NOTICE_MS


def hold(state: Experiment, causes: list[str], origin: Origin) -> Decision:
    """Counting can't be trusted: the last weights stay."""
    reason = "Held: " + "; ".join(causes) + "."
    return _next(state, "hold", dict(state.weights.shares), {"causes": list(causes)}, origin, reason)


def retrain(state: Experiment, arm: str, why: str, origin: Origin) -> Decision:
    """Ask the trainer for a new model, because of `arm`."""
    detail = {"reason": why, "arm": arm}
    return _next(
        state, "retrain", dict(state.weights.shares), detail, origin, f"Retraining is asked for: {why}."
    )


def attempt(state: Experiment, origin: Origin) -> Decision:
    """The trainer begins to fit what was asked for: the log counts attempts, also those that kill it."""
    number = state.retrain_attempts + 1
    detail = {"answers": state.retrain_revision, "number": number}
    reason = f"Retraining, attempt {number}."
    return _next(state, "attempt", dict(state.weights.shares), detail, origin, reason)


def answer(
    state: Experiment, answers: int, outcome: str, found: Mapping[str, Any], origin: Origin
) -> Decision:
    """The retraining request of revision `answers` ends without a challenger: `outcome` refused or failed,
    `found` what else is to be kept of it."""
    detail = {**found, "answers": answers, "outcome": outcome}
    return _next(
        state, "answer", dict(state.weights.shares), detail, origin, f"The retraining request is {outcome}."
    )


def confirm(
    state: Experiment, revision: int, replicas: list[str], seconds: float, origin: Origin
) -> Decision:
    """Every live replica serves what `revision` decided, `seconds` after it."""
    detail = {"confirms": revision, "replicas": list(replicas), "seconds": seconds}
    many = "1 replica" if len(replicas) == 1 else f"{len(replicas)} replicas"
    reason = f"Revision {revision} is served by {many} after {seconds:.1f} s."
    return _next(state, "confirm", dict(state.weights.shares), detail, origin, reason)


def end(state: Experiment, origin: Origin) -> Decision:
    """The experiment is over; the champion stays."""
    return _next(state, "end", champion_only(state), {}, origin, f"Ended: {state.champion} stays champion.")


def champion_only(state: Experiment) -> Shares:
    """All live arms, the champion with everything."""
    return {arm.name: float(arm.name == state.champion) for arm in state.live_arms()}


# ---- shares ------------------------------------------------------------------------------------------------


def _inherit(shares: Mapping[str, float], arm: str, heir: str) -> Shares:
    return _rest_to({name: w for name, w in shares.items() if name != arm}, heir)


def _rest_to(shares: Mapping[str, float], heir: str) -> Shares:
    """The same shares, with `heir` taking exactly what the others leave."""
    others = {name: w for name, w in shares.items() if name != heir}
    return {**others, heir: 1.0 - sum(others.values())}


def _before_pause(state: Experiment) -> Shares:
    before = state.versions[state.paused_version]
    return _rest_to({arm.name: before.get(arm.name, 0.0) for arm in state.live_arms()}, state.champion)


# ---- records -----------------------------------------------------------------------------------------------


def _arm(state: Experiment, name: str) -> Arm:
    if name not in state.arms:
        raise IllegalTransition(f"{state.name} has no arm {name}")
    return state.arms[name]


def _heir(state: Experiment, arm: str) -> Arm:
    holdback = state.holdback()
    if arm != state.champion:
        return state.arms[state.champion]
    if holdback is None:
        raise IllegalTransition(f"champion {arm} can't be rolled back: there is no holdback to put back")
    return holdback


def _record(name: str, kind: Kind, origin: Origin, reason: str, detail: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "experiment": name,
        "kind": kind,
        "received_at": origin.now_ms,
        "author": origin.author,
        "rule": origin.rule,
        "reason": origin.reason or reason,
        "positions": dict(origin.positions),
        "sums_digest": origin.sums_digest,
        "evidence": dict(origin.evidence),
        "detail": dict(detail),
        "code_version": origin.code_version,
    }


def _next(
    state: Experiment, kind: Kind, shares: Shares, detail: Mapping[str, Any], origin: Origin, reason: str
) -> Decision:
    # A race starts at a version of its own.
    racing = kind in ("promote", "undo") or "rules" in detail or bool(detail.get("from_ms"))
    changed = racing or shares != state.weights.shares
    version = state.weights.version + changed
    return _checked(state, _record(state.name, kind, origin, reason, detail), version, shares)


def _checked(state: Experiment | None, record: dict[str, Any], version: int, shares: Shares) -> Decision:
    revision = state.revision + 1 if state else 1
    decision = Decision(revision=revision, weights_version=version, weights=shares, **record)
    apply(state, decision)
    return decision


def _utc(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1_000, UTC):%Y-%m-%d %H:%M:%S} UTC"
