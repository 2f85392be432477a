"""What each kind of decision does to an experiment: a table of effects, and when each is possible.

An effect changes roles, status and races; `weigh` then installs the decision's weights vector. Used by
`experiments.lifecycle.fold`, which folds.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from experiments.lifecycle import decisions as records
from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.state import (
    FIXED_RULES,
    Arm,
    Counting,
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
# holds that the next good look ends; all others need `resume`
LIFTED_BY_A_LOOK = ("stalled-watermark", "sums-behind")
NOTICE_MS = 10_000  # every worker reads a recount within this time, before it counts what it affects


class IllegalTransition(ValueError):  # noqa: N818 (a refusal, named as the domain names it)
    """A decision makes no sense in this state. The message is a sentence for a person."""


# ---- one effect a kind: roles, status and races; the weights vector is installed afterwards ----------------


def start(d: Decision) -> Experiment:
    """The first state, still without weights."""
    detail = d.detail_of(records.StartDetail)
    name = _arm_name(detail.champion.name)
    champion = Arm(name, detail.champion.model_version, "champion", d.revision, since_version=1)
    return Experiment(
        name=d.experiment,
        revision=d.revision,
        status="running",
        salt=detail.salt,
        rules=detail.rules,
        arms={name: champion},
        champion=name,
        weights=Weights(0, {}, d.received_at),
        versions={},
        started_ms=d.received_at,
        updated_ms=d.received_at,
    )


def _enter(s: Experiment, d: Decision) -> Experiment:
    detail = d.detail_of(records.EnterDetail)
    name = _arm_name(detail.arm)
    taken = f"arm {name} is already in {s.name}; choose another name, or undo its rollback"
    require(name not in s.arms, taken)
    require(d.weights.get(name) == 0, f"arm {name} must enter at weight 0")
    arm = Arm(name, detail.model_version, "challenger", d.revision, since_version=d.weights_version)
    pending = s.retrain_pending and d.author != "trainer"
    if detail.answers is not None:
        _require_waiting(s, detail.answers)
    return _update_races(replace(s, arms={**s.arms, name: arm}, retrain_pending=pending), d)


def _allocate(s: Experiment, d: Decision) -> Experiment:
    detail = d.detail_of(records.AllocateDetail)
    by_command = s.status == "held" and s.held_by not in LIFTED_BY_A_LOOK
    require(not by_command, f"{s.name} is held by {s.held_by}: it needs resume")
    steps = detail.ramp
    arms = {name: replace(arm, ramp_step=steps.get(name, arm.ramp_step)) for name, arm in s.arms.items()}
    counted = detail.units if detail.updated else None
    units = s.units_at_update if counted is None else counted
    return replace(s, arms=arms, units_at_update=units, status="running", held_by="", causes=())


def _rollback(s: Experiment, d: Decision) -> Experiment:
    detail = d.detail_of(records.RollbackDetail)
    arm, holdback = _require_live(s, detail.arm), s.holdback()
    roles: dict[str, Role] = {arm.name: "retired"}
    if arm.role == "champion":
        if holdback is None:
            raise no_holdback(arm.name)
        roles[holdback.name] = "champion"
    changed = _change_roles(s, d, roles)
    return _with_retraining_request(changed, d) if detail.retrain else changed


def _promote(s: Experiment, d: Decision) -> Experiment:
    arm, holdback = _require_live(s, d.detail_of(records.PromoteDetail).arm), s.holdback()
    require(arm.role == "challenger", f"arm {arm.name} is {arm.role}; only a challenger can be promoted")
    leaving: dict[str, Role] = {holdback.name: "retired"} if holdback else {}
    return _change_roles(s, d, {arm.name: "champion", s.champion: "holdback", **leaving})


def _undo(s: Experiment, d: Decision) -> Experiment:
    revision = d.detail_of(records.UndoDetail).reverts
    reversal = s.reversals.get(revision)
    if reversal is None:
        raise IllegalTransition(f"revision {revision} is not a rollback or promotion, so it can't be undone")
    for name, role in reversal.after.items():
        now = s.arms[name].role
        require(now == role, f"revision {revision} can't be undone: {name} is {now} now")
    kept = s.holdback()
    if kept and kept.name not in reversal.before and "holdback" in reversal.before.values():
        raise IllegalTransition(f"revision {revision} can't be undone: {kept.name} is the holdback by now")
    back = _change_roles(s, d, reversal.before)
    returning = {name for name, role in reversal.after.items() if role == "retired"}
    restarted = {
        name: replace(back.arms[name], ramp_step=0, since_version=d.weights_version) for name in returning
    }
    return replace(back, arms={**back.arms, **restarted})


def _retrain(s: Experiment, d: Decision) -> Experiment:
    d.detail_of(records.RetrainDetail)  # training reads it
    return _with_retraining_request(s, d)


def _with_retraining_request(s: Experiment, d: Decision) -> Experiment:
    waiting = replace(s, retrain_pending=True, retrain_at_ms=d.received_at, retrain_revision=d.revision)
    return replace(waiting, retrain_attempts=0, retrain_tried_ms=0)


def _attempt(s: Experiment, d: Decision) -> Experiment:
    _require_waiting(s, d.detail_of(records.AttemptDetail).answers)
    return replace(s, retrain_attempts=s.retrain_attempts + 1, retrain_tried_ms=d.received_at)


def _answer(s: Experiment, d: Decision) -> Experiment:
    _require_waiting(s, d.detail_of(records.AnswerDetail).answers)
    return replace(s, retrain_pending=False)


def _hold(s: Experiment, d: Decision) -> Experiment:
    return replace(s, status="held", held_by=d.rule, causes=tuple(d.detail_of(records.HoldDetail).causes))


def _pause(s: Experiment, d: Decision) -> Experiment:
    return replace(s, status="paused", paused_version=s.weights.version)


def _resume(s: Experiment, d: Decision) -> Experiment:
    """A pause covers a hold and ends with the hold as it was: only the causes that the record names are
    accepted."""
    detail = d.detail_of(records.ResumeDetail)
    accepted = set(s.causes if detail.accepts is None else detail.accepts)
    left = tuple(cause for cause in s.causes if cause not in accepted)
    known = tuple(dict.fromkeys(s.acknowledged + tuple(cause for cause in s.causes if cause in accepted)))
    lifted = replace(
        s,
        status="held" if left else "running",
        held_by=s.held_by if left else "",
        causes=left,
        acknowledged=known,
        paused_version=0,
    )
    if detail.rules is None:
        return lifted
    for name in FIXED_RULES:
        same = getattr(detail.rules, name) == getattr(s.rules, name)
        require(same, f"rules.{name} says what is counted and can't change; start another experiment")
    return _update_races(replace(lifted, rules=detail.rules, races=()), d)


def _recount(s: Experiment, d: Decision) -> Experiment:
    """A recount of the whole log gives the same evidence, so races go on. A recount from a time on drops
    evidence, so every race starts again."""
    from_ms = d.detail_of(records.RecountDetail).from_ms
    notice_ms = d.received_at + round(1_000 * s.rules.lateness_s) + NOTICE_MS
    possible = from_ms == 0 or from_ms >= notice_ms
    require(possible, f"recount: from_ms must be 0 (the whole log) or at least {notice_ms}, not {from_ms}")
    recounted = replace(
        s,
        status="running" if s.status == "held" else s.status,
        held_by="",
        causes=(),
        acknowledged=tuple(dict.fromkeys(s.acknowledged + s.causes)),
        counting=Counting(s.counting.generation + 1, from_ms),
        units_at_update=0,
    )
    return recounted if from_ms == 0 else _update_races(replace(recounted, races=()), d)


def _confirm(s: Experiment, d: Decision) -> Experiment:
    revision = d.detail_of(records.ConfirmDetail).confirms
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


# ---- parts of effects ------------------------------------------------------------------------------


def _change_roles(s: Experiment, d: Decision, roles: Mapping[str, Role]) -> Experiment:
    """Give arms new roles, remember the old ones for `undo`, wait for confirmation, and start new races."""
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
    return _update_races(changed, d)


def _update_races(s: Experiment, d: Decision) -> Experiment:
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


def install_weights(s: Experiment, d: Decision, mutate: bool = False) -> Experiment:
    """Install the decision's weights. A version is immutable: another vector must be the next version.
    `mutate`: the caller owns the state that this one replaces, so its `versions` need not be copied."""
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


def _require_waiting(s: Experiment, revision: int) -> None:
    """Refuse an answer to any retraining request but the one that waits."""
    waits = s.retrain_pending and s.retrain_revision == revision
    require(waits, f"the retraining request of revision {revision} is not waiting for an answer")


def retraining_request(d: Decision) -> tuple[str, str] | None:
    """(arm, reason) if a record requests retraining: a `retrain`, or the rollback of a fresh champion, which
    carries its request. Earlier releases wrote two records for the latter."""
    match d.detail:
        case records.RetrainDetail(arm=arm, reason=reason):
            return arm, reason
        case records.RollbackDetail(arm=arm, retrain=reason) if reason:
            return arm, reason
    return None


def no_holdback(champion: str) -> IllegalTransition:
    """The error where a champion has no holdback to replace it."""
    return IllegalTransition(f"champion {champion} can't be rolled back: there is no holdback to replace it")


def _require_live(s: Experiment, name: str) -> Arm:
    arm = s.arms.get(name)
    if arm is None:
        raise IllegalTransition(f"{s.name} has no arm {name}")
    require(arm.role != "retired", f"arm {name} is already retired")
    return arm


def _arm_name(name: str) -> str:
    require(ARM_NAME.fullmatch(name), f"arm name {name!r} must match {ARM_NAME.pattern}")
    return name


def require(holds: object, sentence: str) -> None:
    """Raise IllegalTransition with `sentence` unless `holds`."""
    if not holds:
        raise IllegalTransition(sentence)
