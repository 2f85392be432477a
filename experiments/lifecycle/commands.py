"""Builders of decisions: the next record of an experiment, one function a kind, each with the complete
weights vector and detail.

Every builder returns a decision that `experiments.lifecycle.fold.apply` accepts on this state, or raises
IllegalTransition with the reason. The builders decide nothing; operators and `experiments.decision_rules` do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from experiments.lifecycle import decisions as records
from experiments.lifecycle.decisions import Decision, Deployed, Detail, Dropped, kind_of, to_raw_json
from experiments.lifecycle.fold import apply
from experiments.lifecycle.state import Arm, Experiment, Rules, Weights
from experiments.lifecycle.transitions import NOTICE_MS, IllegalTransition, no_holdback

Shares = dict[str, float]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Author, time, rule and numbers of a decision. `now_ms`: ms since the epoch, UTC; `reason`: one
    sentence, empty: the builder's own."""

    author: str
    now_ms: int
    rule: str = "command"
    reason: str = ""
    evidence: records.Evidence | records.GateEvidence | None = None
    positions: Mapping[str, int] = field(default_factory=dict)
    sums_digest: str = ""
    code_version: str = ""


def start(name: str, champion: Deployed, rules: Rules, salt: str, provenance: Provenance) -> Decision:
    """Start an experiment: its first champion serves all units. `salt` makes this experiment's assignments
    its own."""
    detail = records.StartDetail(champion=champion, rules=rules, salt=salt)
    weights = Weights(1, {champion.name: 1.0}, provenance.now_ms)
    reason = f"{champion.name} serves as first champion."
    return _record(None, name, detail, weights, provenance, reason)


def enter(
    state: Experiment, arm: str, model_version: str, provenance: Provenance, answers: int | None = None
) -> Decision:
    """Enter a challenger at weight 0. `answers`: revision of the retraining request that it settles."""
    detail = records.EnterDetail(arm=arm, model_version=model_version, answers=answers)
    return _next(
        state, detail, provenance, f"{arm} enters as challenger.", {**state.weights.shares, arm: 0.0}
    )


def allocate(
    state: Experiment,
    shares: Mapping[str, float],
    ramp: Mapping[str, int],
    units: int,
    provenance: Provenance,
) -> Decision:
    """Set the weights after a look; if they do not change, they keep their version. `ramp`: burn-in step of
    each arm that took one; `units`: matured units so far. The record says `updated` if the look was entitled
    to change the weights."""
    updated = provenance.rule != "too-few-units"
    detail = records.AllocateDetail(updated=updated, units=units, ramp=dict(ramp))
    return _next(state, detail, provenance, "A look at the matured units.", dict(shares))


def rollback(state: Experiment, arm: str, provenance: Provenance, retrain: str = "") -> Decision:
    """Roll back an arm: a challenger or holdback retires and its share goes to the champion; or a champion
    retires and its holdback takes over. `retrain`: why the same record requests a new model; empty: it does
    not."""
    out, heir = _arm(state, arm), _heir(state, arm)
    detail = records.RollbackDetail(
        arm=arm,
        version_out=out.model_version,
        version_in=heir.model_version,
        restored=heir.name if out.role == "champion" else None,
        retrain=retrain,
    )
    shares = _transfer_share(state.weights.shares, arm, heir.name)
    return _next(state, detail, provenance, f"{arm} is taken out.", shares)


def promote(state: Experiment, arm: str, provenance: Provenance) -> Decision:
    """Promote a challenger to champion; the old champion is its holdback at the floor, an older holdback
    retires."""
    promoted, holdback = _arm(state, arm), state.holdback()
    shares = dict(state.weights.shares)
    if holdback:
        shares = _transfer_share(shares, holdback.name, arm)
    floor = state.rules.floor if len(shares) == 2 else state.rules.floor_many
    others = {name: w for name, w in shares.items() if name not in (arm, state.champion)}
    room = 1 - floor - state.rules.champion_floor
    scale = min(1.0, room / sum(others.values())) if sum(others.values()) else 1.0
    shares = {name: w * scale for name, w in others.items()} | {state.champion: floor}
    detail = records.PromoteDetail(
        arm=arm,
        version_out=_arm(state, state.champion).model_version,
        version_in=promoted.model_version,
    )
    return _next(state, detail, provenance, f"{arm} becomes champion.", _give_rest_to(shares, arm))


def undo(state: Experiment, reverts: int, provenance: Provenance) -> Decision:
    """Restore the roles of before revision `reverts`. An arm that comes back has no weight until
    the next look; if the champion changes, the two exchange shares."""
    reversal = state.reversals.get(reverts)
    before = reversal.before if reversal else {}
    live = {name for name, arm in state.arms.items() if before.get(name, arm.role) != "retired"}
    shares = {name: state.weights.shares.get(name, 0.0) for name in live}
    champion = next((name for name, role in before.items() if role == "champion"), state.champion)
    if champion != state.champion:
        kept = state.weights.shares
        swapped = {champion: kept.get(state.champion, 0.0), state.champion: kept.get(champion, 0.0)}
        shares |= {name: share for name, share in swapped.items() if name in live}
    reason = f"Revision {reverts} is undone."
    return _next(
        state, records.UndoDetail(reverts=reverts), provenance, reason, _give_rest_to(shares, champion)
    )


def pause(state: Experiment, provenance: Provenance) -> Decision:
    """Pause: the champion serves alone until `resume`."""
    reason = "Paused: the champion serves alone."
    return _next(state, records.PauseDetail(), provenance, reason, champion_only(state))


def resume(state: Experiment, provenance: Provenance, rules: Rules | None = None) -> Decision:
    """Go on after a pause (with the shares of before, less what was retired meanwhile; held if it was held
    before) or a hold (acknowledging its causes). New rules restart every race, at a weights version of their
    own."""
    paused = state.status == "paused"
    shares = _shares_before_pause(state) if paused else None
    detail = records.ResumeDetail(accepts=[] if paused else list(state.causes), rules=rules)
    reason = "Resumed with new rules" if rules else "Resumed"
    held = f"; held by {state.held_by}, as before the pause" if paused and state.held_by else ""
    return _next(state, detail, provenance, f"{reason}{held}.", shares)


def recount(state: Experiment, from_ms: int, dropped: Dropped, provenance: Provenance) -> Decision:
    """Drop the sums and count again: from the log (`from_ms` 0), or only units first exposed at `from_ms` or
    later. `dropped`: the sums as they were, for the record."""
    where = "from the log" if from_ms == 0 else f"from {_utc(from_ms)} on"
    reason = f"The sums are dropped; units are counted again {where}."
    return _next(state, records.RecountDetail(from_ms=from_ms, dropped=dropped), provenance, reason)


def recount_from(state: Experiment, now_ms: int) -> int:
    """The earliest time (ms) from which counting can restart if it is decided at `now_ms`."""
    return now_ms + round(1_000 * state.rules.lateness_s) + NOTICE_MS


def hold(state: Experiment, causes: list[str], provenance: Provenance) -> Decision:
    """Hold the experiment, because its sums can't be trusted; the last weights stay."""
    return _next(state, records.HoldDetail(causes=causes), provenance, "Held: " + "; ".join(causes) + ".")


def retrain(state: Experiment, arm: str, why: str, provenance: Provenance) -> Decision:
    """Request a new model, because of `arm`."""
    reason = f"Retraining is requested: {why}."
    return _next(state, records.RetrainDetail(reason=why, arm=arm), provenance, reason)


def attempt(state: Experiment, provenance: Provenance) -> Decision:
    """Record that training begins to fit the requested model, so that the log also counts attempts that
    kill the process."""
    number = state.retrain_attempts + 1
    detail = records.AttemptDetail(answers=state.retrain_revision, number=number)
    return _next(state, detail, provenance, f"Retraining, attempt {number}.")


def answer(state: Experiment, detail: records.AnswerDetail, provenance: Provenance) -> Decision:
    """Close a retraining request that led to no challenger."""
    return _next(state, detail, provenance, f"The retraining request is {detail.outcome}.")


def confirm(
    state: Experiment, revision: int, replicas: list[str], seconds: float, provenance: Provenance
) -> Decision:
    """Confirm that every live replica serves `revision`, `seconds` after it was decided."""
    many = "1 replica" if len(replicas) == 1 else f"{len(replicas)} replicas"
    reason = f"Revision {revision} is served by {many} after {seconds:.1f} s."
    detail = records.ConfirmDetail(confirms=revision, replicas=replicas, seconds=seconds)
    return _next(state, detail, provenance, reason)


def end(state: Experiment, provenance: Provenance) -> Decision:
    """End the experiment; the champion stays."""
    reason = f"Ended: {state.champion} stays champion."
    return _next(state, records.EndDetail(), provenance, reason, champion_only(state))


def champion_only(state: Experiment) -> Shares:
    """Shares that give the champion all traffic and the other live arms none."""
    return {arm.name: float(arm.name == state.champion) for arm in state.live_arms()}


# ---- shares ------------------------------------------------------------------------------------------------


def _transfer_share(shares: Mapping[str, float], arm: str, heir: str) -> Shares:
    return _give_rest_to({name: w for name, w in shares.items() if name != arm}, heir)


def _give_rest_to(shares: Mapping[str, float], heir: str) -> Shares:
    """The same shares, except that `heir` gets 1 minus the sum of the others."""
    others = {name: w for name, w in shares.items() if name != heir}
    return {**others, heir: 1.0 - sum(others.values())}


def _shares_before_pause(state: Experiment) -> Shares:
    before = state.versions[state.paused_version]
    return _give_rest_to({arm.name: before.get(arm.name, 0.0) for arm in state.live_arms()}, state.champion)


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
        raise no_holdback(arm)
    return holdback


def _next(
    state: Experiment, detail: Detail, provenance: Provenance, reason: str, shares: Shares | None = None
) -> Decision:
    """The record that follows `state`. `shares` None: unchanged."""
    shares = dict(state.weights.shares) if shares is None else shares
    changed = shares != state.weights.shares or _starts_a_race(detail)
    version = state.weights.version + changed
    return _record(state, state.name, detail, Weights(version, shares, provenance.now_ms), provenance, reason)


def _starts_a_race(detail: Detail) -> bool:
    """Whether the record needs a weights version of its own, because a race starts at one."""
    match detail:
        case records.PromoteDetail() | records.UndoDetail():
            return True
        case records.ResumeDetail(rules=rules):
            return rules is not None
        case records.RecountDetail(from_ms=from_ms):
            return from_ms > 0
    return False


def _record(
    state: Experiment | None,
    name: str,
    detail: Detail,
    weights: Weights,
    provenance: Provenance,
    reason: str,
) -> Decision:
    decision = Decision(
        experiment=name,
        revision=state.revision + 1 if state else 1,
        kind=kind_of(detail),
        received_at=provenance.now_ms,
        author=provenance.author,
        rule=provenance.rule,
        reason=provenance.reason or reason,
        weights_version=weights.version,
        weights=weights.shares,
        positions=dict(provenance.positions),
        sums_digest=provenance.sums_digest,
        evidence_json=to_raw_json(provenance.evidence),
        detail_json=to_raw_json(detail),
        code_version=provenance.code_version,
    )
    apply(state, decision)
    return decision


def _utc(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1_000, UTC):%Y-%m-%d %H:%M:%S} UTC"
