"""What each kind of decision does to an experiment: a table of effects, and when each is possible.

An effect changes roles, status and races; `weigh` then installs the decision's weights vector. Used by
`experiments.lifecycle.fold`, which folds.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.lifecycle.state import (
    COUNTING,
    Arm,
    Counting,
    Decision,
    Experiment,
    Kind,
    Race,
    Reversal,
    Role,
    Rules,
    Status,
    Weights,
)

ARM_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
LIFTED_BY_A_LOOK = (
    "stalled-watermark",
    "sums-behind",
)  # holds that the next good look ends; all others need `resume`
NOTICE_MS = 10_000  # in which every worker has seen a recount before it counts what the recount is about
ANSWERS = ("refused", "failed")  # how a retraining request ends without a challenger


class IllegalTransition(ValueError):  # noqa: N818 (a refusal, named as the domain names it)
    """A decision makes no sense in this state. The message is a sentence for a person."""


# ---- one effect a kind: roles, status and races; the weights vector is installed afterwards ----------------


def start(d: Decision) -> Experiment:
    """The first state, still without weights."""
    champion = _need(d, "champion")
    arm = Arm(_arm_name(champion["name"]), champion["model_version"], "champion", d.revision, since_version=1)
    return Experiment(
        name=d.experiment,
        revision=d.revision,
        status="running",
        salt=_need(d, "salt"),
        rules=_rules(_need(d, "rules")),
        arms={arm.name: arm},
        champion=arm.name,
        weights=Weights(0, {}, d.received_at),
        versions={},
        started_ms=d.received_at,
        updated_ms=d.received_at,
    )


def _enter(s: Experiment, d: Decision) -> Experiment:
    name = _arm_name(_need(d, "arm"))
    taken = f"arm {name} is already in {s.name}; choose another name, or undo its rollback"
    require(name not in s.arms, taken)
    require(d.weights.get(name) == 0, f"arm {name} must enter at weight 0")
    arm = Arm(name, _need(d, "model_version"), "challenger", d.revision, since_version=d.weights_version)
    pending = s.retrain_pending and d.author != "trainer"
    if "answers" in d.detail:
        _asked(s, d)
    return _race(replace(s, arms={**s.arms, name: arm}, retrain_pending=pending), d)


def _allocate(s: Experiment, d: Decision) -> Experiment:
    by_command = s.status == "held" and s.held_by not in LIFTED_BY_A_LOOK
    require(not by_command, f"{s.name} is held by {s.held_by}: it needs resume")
    steps = d.detail.get("ramp", {})
    arms = {name: replace(arm, ramp_step=steps.get(name, arm.ramp_step)) for name, arm in s.arms.items()}
    units = d.detail.get("units", s.units_at_update) if d.detail.get("updated", True) else s.units_at_update
    return replace(s, arms=arms, units_at_update=units, status="running", held_by="", causes=())


def _rollback(s: Experiment, d: Decision) -> Experiment:
    arm, holdback = _live(s, d), s.holdback()
    roles: dict[str, Role] = {arm.name: "retired"}
    if arm.role == "champion":
        possible = holdback is not None
        require(possible, f"champion {arm.name} can't be rolled back: there is no holdback to put back")
        roles[holdback.name] = "champion"
    changed = _recast(s, d, roles)
    return _retrain(changed, d) if d.detail.get("retrain") else changed


def _promote(s: Experiment, d: Decision) -> Experiment:
    arm, holdback = _live(s, d), s.holdback()
    require(arm.role == "challenger", f"arm {arm.name} is {arm.role}; only a challenger can be promoted")
    leaving: dict[str, Role] = {holdback.name: "retired"} if holdback else {}
    return _recast(s, d, {arm.name: "champion", s.champion: "holdback", **leaving})


def _undo(s: Experiment, d: Decision) -> Experiment:
    revision = _need(d, "reverts")
    found = s.reversals.get(revision)
    require(found is not None, f"revision {revision} is nothing that can be undone")
    for name, role in found.after.items():
        require(
            s.arms[name].role == role,
            f"revision {revision} can't be undone: {name} is {s.arms[name].role} now",
        )
    kept = s.holdback()
    second = kept is not None and kept.name not in found.before and "holdback" in found.before.values()
    require(not second, f"revision {revision} can't be undone: {kept and kept.name} is the holdback by now")
    back = _recast(s, d, found.before)
    returning = {name for name, role in found.after.items() if role == "retired"}
    again = {
        name: replace(back.arms[name], ramp_step=0, since_version=d.weights_version) for name in returning
    }
    return replace(back, arms={**back.arms, **again})


def _retrain(s: Experiment, d: Decision) -> Experiment:
    asked = replace(s, retrain_pending=True, retrain_at_ms=d.received_at, retrain_revision=d.revision)
    return replace(asked, retrain_attempts=0, retrain_tried_ms=0)


def _attempt(s: Experiment, d: Decision) -> Experiment:
    _asked(s, d)
    return replace(s, retrain_attempts=s.retrain_attempts + 1, retrain_tried_ms=d.received_at)


def _answer(s: Experiment, d: Decision) -> Experiment:
    _asked(s, d)
    outcome = _need(d, "outcome")
    require(outcome in ANSWERS, f"answer: detail.outcome {outcome!r} is not one of {', '.join(ANSWERS)}")
    return replace(s, retrain_pending=False)


def _hold(s: Experiment, d: Decision) -> Experiment:
    return replace(s, status="held", held_by=d.rule, causes=tuple(_need(d, "causes")))


def _pause(s: Experiment, d: Decision) -> Experiment:
    return replace(s, status="paused", paused_version=s.weights.version)


def _resume(s: Experiment, d: Decision) -> Experiment:
    """A pause covers a hold, and ends with the hold as it was: who resumes accepts what the record names.
    Older records name nothing and accepted all, also under a pause."""
    accepts = set(d.detail.get("accepts", s.causes))
    left = tuple(cause for cause in s.causes if cause not in accepts)
    known = tuple(dict.fromkeys(s.acknowledged + tuple(cause for cause in s.causes if cause in accepts)))
    status, held_by = ("held", s.held_by) if left else ("running", "")
    lifted = replace(s, status=status, held_by=held_by, causes=left, acknowledged=known, paused_version=0)
    if "rules" not in d.detail:
        return lifted
    rules = _rules(d.detail["rules"])
    for name in COUNTING:
        same = getattr(rules, name) == getattr(s.rules, name)
        require(same, f"rules.{name} says what is counted and can't change; start another experiment")
    return _race(replace(lifted, rules=rules, races=()), d)


def _recount(s: Experiment, d: Decision) -> Experiment:
    """Dropped evidence is no evidence: without it every race starts anew. Counted again from the log it is
    the same, and the races go on."""
    from_ms = _need(d, "from_ms")
    notice_ms = d.received_at + round(1_000 * s.rules.lateness_s) + NOTICE_MS
    possible = isinstance(from_ms, int) and (from_ms == 0 or from_ms >= notice_ms)
    require(possible, f"recount: from_ms must be 0 (the whole log) or at least {notice_ms}, not {from_ms}")
    known = tuple(dict.fromkeys(s.acknowledged + s.causes))
    status = "running" if s.status == "held" else s.status
    again = replace(
        s,
        status=status,
        held_by="",
        causes=(),
        acknowledged=known,
        counting=Counting(s.counting.generation + 1, from_ms),
        units_at_update=0,
    )
    return again if from_ms == 0 else _race(replace(again, races=()), d)


def _confirm(s: Experiment, d: Decision) -> Experiment:
    revision = _need(d, "confirms")
    require(revision in s.unconfirmed, f"revision {revision} does not wait for confirmation")
    return replace(s, unconfirmed=tuple(rev for rev in s.unconfirmed if rev != revision))


def _end(s: Experiment, d: Decision) -> Experiment:
    return replace(s, status="ended", held_by="", causes=(), races=(), retrain_pending=False)


@dataclass(frozen=True, slots=True)
class Transition:
    """Statuses in which a kind of decision is possible, and what it does."""

    allowed: tuple[Status, ...]
    effect: Callable[[Experiment, Decision], Experiment]


COUNTED: tuple[Status, ...] = ("running", "held")
ALIVE: tuple[Status, ...] = ("running", "held", "paused")
TABLE: Mapping[Kind, Transition] = {
    "enter": Transition(ALIVE, _enter),
    "allocate": Transition(COUNTED, _allocate),
    "rollback": Transition(ALIVE, _rollback),
    "promote": Transition(COUNTED, _promote),
    "undo": Transition(COUNTED, _undo),
    "retrain": Transition(ALIVE, _retrain),
    "attempt": Transition(ALIVE, _attempt),
    "answer": Transition(ALIVE, _answer),
    "hold": Transition(COUNTED, _hold),
    "pause": Transition(COUNTED, _pause),
    "resume": Transition(("paused", "held"), _resume),
    "recount": Transition(ALIVE, _recount),
    "confirm": Transition((*ALIVE, "ended"), _confirm),
    "end": Transition(ALIVE, _end),
}


# ---- what effects are made of ------------------------------------------------------------------------------


def _recast(s: Experiment, d: Decision, roles: Mapping[str, Role]) -> Experiment:
    """Give arms new roles; remember the old ones, wait for confirmation, and race anew."""
    arms = {name: replace(arm, role=roles.get(name, arm.role)) for name, arm in s.arms.items()}
    champion = next(name for name, arm in arms.items() if arm.role == "champion")
    undoable = Reversal(d.kind, {name: s.arms[name].role for name in roles}, dict(roles))
    changed = replace(
        s,
        arms=arms,
        champion=champion,
        races=tuple(race for race in s.races if race.arm not in roles and race.against not in roles),
        reversals={**s.reversals, d.revision: undoable},
        unconfirmed=(*s.unconfirmed, d.revision),
    )
    return _race(changed, d)


def _race(s: Experiment, d: Decision) -> Experiment:
    """Run exactly the races that the roles ask for: every challenger against the champion, and a fresh
    champion against its holdback. A race under way goes on; a new one starts at this version, at the next
    α."""
    pairs = [(arm.name, s.champion) for arm in s.live_arms() if arm.role == "challenger"]
    holdback = s.holdback()
    pairs += [(s.champion, holdback.name)] if holdback else []
    run = {(race.arm, race.against): race for race in s.races}
    races, started = [], s.races_started
    for arm, against in pairs:
        started += (arm, against) not in run
        races.append(
            run.get((arm, against))
            or Race(arm, against, d.weights_version, started, alpha_at(s.rules, started))
        )
    begun = d.weights_version > s.weights.version or started == s.races_started
    require(begun, f"{d.kind} starts a race and needs a weights version of its own")
    return replace(s, races=tuple(races), races_started=started)


def alpha_at(rules: Rules, index: int) -> float:
    """α_i = α·6 / (π² i²): the i-th race's part of the error budget; the parts sum to α."""
    return rules.alpha * 6 / (math.pi * index) ** 2


def weigh(s: Experiment, d: Decision, mutate: bool = False) -> Experiment:
    """Install the decision's weights. A version is immutable: another vector must be the next version.
    `spare`: nobody holds the state that this one replaces, so its `versions` need not be copied."""
    shares, now = dict(d.weights), s.weights
    live = {arm.name for arm in s.live_arms()}
    require(set(shares) == live, f"weights must name the live arms {sorted(live)}, not {sorted(shares)}")
    require(all(w >= 0 for w in shares.values()), f"weights must not be negative: {shares}")
    require(abs(math.fsum(shares.values()) - 1) < 1e-9, f"weights must sum to 1: {shares}")
    alone = s.status in ("paused", "ended")
    require(not alone or shares[s.champion] == 1, f"while {s.status}, champion {s.champion} serves alone")
    if d.weights_version == now.version:
        require(shares == now.shares, f"weights version {now.version} is immutable")
        return s
    follows = d.weights_version == now.version + 1
    require(follows, f"weights version {d.weights_version} is not {now.version + 1}")
    weights = Weights(d.weights_version, shares, d.received_at)
    versions = s.versions if mutate and isinstance(s.versions, dict) else dict(s.versions)
    versions[weights.version] = shares
    return replace(s, weights=weights, versions=versions)


def _asked(s: Experiment, d: Decision) -> None:
    """A retraining request is answered once: the record must name the one that waits."""
    revision = _need(d, "answers")
    waits = s.retrain_pending and s.retrain_revision == revision
    require(waits, f"the retraining request of revision {revision} is not waiting for an answer")


def retraining_request(d: Decision) -> tuple[str, str] | None:
    """(arm, why) if a record asks for retraining: a `retrain`, or the rollback of a fresh champion, which
    carries its request. Older logs hold two records for the latter."""
    if d.kind == "retrain":
        return str(d.detail["arm"]), str(d.detail["reason"])
    if d.kind == "rollback" and d.detail.get("retrain"):
        return str(d.detail["arm"]), str(d.detail["retrain"])
    return None


def _live(s: Experiment, d: Decision) -> Arm:
    name = _need(d, "arm")
    arm = s.arms.get(name)
    require(arm is not None, f"{s.name} has no arm {name}")
    require(arm.role != "retired", f"arm {name} is already retired")
    return arm


def _rules(found: Rules | Mapping[str, Any]) -> Rules:
    try:
        return found if isinstance(found, Rules) else Rules(**found)
    except (TypeError, ValueError) as error:
        raise IllegalTransition(f"these rules are not possible: {error}") from error


def _arm_name(name: str) -> str:
    require(ARM_NAME.fullmatch(name), f"arm name {name!r} must match {ARM_NAME.pattern}")
    return name


def _need(d: Decision, key: str) -> Any:
    require(key in d.detail, f"{d.kind}: detail.{key} is missing")
    return d.detail[key]


def require(holds: object, sentence: str) -> None:
    """Raise IllegalTransition with `sentence` unless `holds`."""
    if not holds:
        raise IllegalTransition(sentence)
