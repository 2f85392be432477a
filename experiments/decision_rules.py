"""One look: evidence -> decisions, each with its reason. Pure; the decider appends the decisions in order.

Missing data never rolls back. A stalled watermark, recorded data loss or an open accounting identity
leads to a HOLD, and the last weights stay. A stall ends at the next good look; any other hold waits for
`resume`, which acknowledges its causes. Then come rollbacks (click race, hard limit), then weights. The hard
limit acts also during a hold for lost data, because missing data does not make an arm fail.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from experiments.allocation.thompson import new_units, next_weights
from experiments.counting.attribution_join import settling_time_ms
from experiments.counting.sums import HOUR_MS, Cell, Counts, ExperimentSums
from experiments.inference.beta_posterior import Posterior, p_best, posteriors
from experiments.inference.click_race import RaceStatus, race_status
from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import ArmEvidence, Decision, Evidence, RaceEvidence
from experiments.lifecycle.fold import apply
from experiments.lifecycle.state import Experiment
from experiments.lifecycle.transitions import LIFTED_BY_A_LOOK

LOSS_PREFIX = "partition "  # of the causes of holds for lost data


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Input of the decider at one look.

    `sums`: flat sums of all partitions; `positions`: their offsets by "topic/partition"; `watermark_ms`: the
    lowest of all partitions, None if some partition has none; `loaded`: model versions that every live
    replica has loaded; `losses`: recorded data losses by partition; `decided_at`: positions of the latest
    decision made from sums (sums behind them are being rebuilt); `restarting`: partitions whose loss was
    accepted and that have not restarted counting yet; `unreadable`: why the stored sums can't be read.
    """

    now_ms: int
    sums: Mapping[str, int]
    watermark_ms: int | None
    positions: Mapping[str, int] = field(default_factory=dict)
    loaded: frozenset[str] = frozenset()
    losses: Mapping[int, str] = field(default_factory=dict)
    decided_at: Mapping[str, int] = field(default_factory=dict)
    restarting: frozenset[int] = frozenset()
    unreadable: str = ""
    author: str = "decider"
    code_version: str = ""


def look(state: Experiment, observation: Observation) -> list[Decision]:
    """Decisions that follow from one look, in order. Empty while paused, ended, or in a hold that only an
    operator can lift, except that an arm over its hard limit is rolled back during a hold for lost data."""
    waiting = state.held_by not in ("", *LIFTED_BY_A_LOOK)
    if state.status in ("paused", "ended") or (waiting and state.held_by != "data-loss"):
        return []
    try:
        analysis = _Analysis.of(state, observation)
    except ValueError as error:
        return [] if waiting else _hold_unreadable(state, observation, error)
    if waiting:
        return [] if _broken_identity(analysis) else _rollbacks(analysis, _fallback_limit_reason)
    for rule, find in HOLDS.items():
        if causes := find(analysis):
            return [] if state.held_by == rule else [commands.hold(state, causes, analysis.provenance(rule))]
    return _rollbacks(analysis, _rollback_reason) or [_allocate(analysis)]


@dataclass(frozen=True, slots=True)
class _Analysis:
    """An observation and the values computed from it."""

    state: Experiment
    observation: Observation
    sums: ExperimentSums
    beliefs: Mapping[str, Posterior]
    races: tuple[RaceStatus, ...]

    @classmethod
    def of(cls, state: Experiment, observation: Observation) -> "_Analysis":
        """Raises ValueError if the sums can't belong to this experiment."""
        if observation.unreadable:
            raise ValueError(observation.unreadable)
        sums = ExperimentSums.parse(observation.sums)
        if unknown := {version for version, _, _ in sums.cells} - state.versions.keys():
            raise ValueError(f"sums: weights version {min(unknown)} was never in force")
        if impossible := sums.impossible():
            raise ValueError(f"sums: {_cell_text(impossible[0])} holds impossible counts")
        arms = [arm.name for arm in state.live_arms()]
        beliefs = posteriors(sums, arms, state.champion, state.rules)
        return cls(
            state, observation, sums, beliefs, tuple(race_status(state, sums, race) for race in state.races)
        )

    def provenance(self, rule: str, reason: str = "") -> Provenance:
        return Provenance(
            author=self.observation.author,
            now_ms=self.observation.now_ms,
            rule=rule,
            reason=reason,
            evidence=_evidence(self),
            positions=self.observation.positions,
            sums_digest=self.sums.digest(),
            code_version=self.observation.code_version,
        )


def _hold_unreadable(state: Experiment, observation: Observation, error: ValueError) -> list[Decision]:
    """A HOLD for sums that no correct counting produces: it names the wrong key and has no evidence."""
    rule = "broken-identity"
    if state.held_by == rule:
        return []
    provenance = Provenance(
        author=observation.author,
        now_ms=observation.now_ms,
        rule=rule,
        positions=observation.positions,
        code_version=observation.code_version,
    )
    return [commands.hold(state, [str(error)], provenance)]


# ---- hold --------------------------------------------------------------------------------------------------


def loss_cause(partition: int, loss: str) -> str:
    """The cause of a hold for lost data, as the record and `Experiment.acknowledged` name it."""
    return f"{LOSS_PREFIX}{partition}: {loss}"


def _data_losses(analysis: _Analysis) -> list[str]:
    causes = [loss_cause(partition, loss) for partition, loss in sorted(analysis.observation.losses.items())]
    return [cause for cause in causes if cause not in analysis.state.acknowledged]


def _sums_behind(analysis: _Analysis) -> list[str]:
    now, then, restarting = (
        analysis.observation.positions,
        analysis.observation.decided_at,
        analysis.observation.restarting,
    )
    if restarting:  # a decision now would name positions that a new log may not reach for weeks
        return [f"after an accepted loss counting has not restarted yet: partitions {sorted(restarting)}"]
    lost = sorted(pair for pair, offset in then.items() if now.get(pair, 0) < offset)
    if not lost:
        return []
    first = f"{lost[0]} is at {now.get(lost[0], 0)}, but an earlier decision was made at {then[lost[0]]}"
    return [f"the sums are being counted again ({len(lost)} positions are behind: {first})"]


def _broken_identity(analysis: _Analysis) -> list[str]:
    sums = analysis.sums
    causes = [
        f"arm {arm}: {gap} acknowledged events are not accounted for" for arm, gap in sums.gaps().items()
    ]
    causes += [f"arm {arm}: {gap} exposures are not accounted for" for arm, gap in _exposure_gaps(sums)]
    causes += [f"{_cell_text(cell)}: more credited units than successes" for cell in sums.overcredited()]
    causes += [
        f"{_cell_text(cell)}: successes are not what the events credit" for cell in _uncredited(analysis)
    ]
    return [cause for cause in causes if cause not in analysis.state.acknowledged]


def _exposure_gaps(sums: ExperimentSums) -> list[tuple[str, int]]:
    return [(arm, gap) for arm, gap in sums.exposure_gaps().items() if "exposed" in sums.accounts[arm]]


def _uncredited(analysis: _Analysis) -> list[Cell]:
    """Cells of hours whose events are all counted, for arms whose sums hold both sides of the identity."""
    over_ms = (analysis.observation.watermark_ms or 0) - settling_time_ms(analysis.state.rules)
    cells = analysis.sums.uncredited(before_hour=over_ms // HOUR_MS)
    return [cell for cell in cells if "exposed" in analysis.sums.accounts.get(cell[1], {})]


def _cell_text(cell: Cell) -> str:
    return "version {}, arm {}, hour {}".format(*cell)


def _stalled_watermark(analysis: _Analysis) -> list[str]:
    seen_ms = max(analysis.observation.watermark_ms or 0, analysis.state.started_ms)
    behind_s = (analysis.observation.now_ms - seen_ms) / 1000
    if behind_s <= analysis.state.rules.stall_s:
        return []
    return [f"the watermark is {behind_s:.0f} s behind, {analysis.state.rules.stall_s:.0f} s are allowed"]


HOLDS: Mapping[str, Callable[[_Analysis], list[str]]] = {
    "data-loss": _data_losses,
    "sums-behind": _sums_behind,
    "broken-identity": _broken_identity,
    "stalled-watermark": _stalled_watermark,
}


# ---- roll back ---------------------------------------------------------------------------------------------


RollbackReason = tuple[str, str] | None  # (rule, reason) if the raced arm must go


def _rollbacks(
    analysis: _Analysis, fault: Callable[[_Analysis, RaceStatus], RollbackReason]
) -> list[Decision]:
    decisions, state = [], analysis.state
    for race in analysis.races:
        if (reason := fault(analysis, race)) is None or state.arms[race.race.arm].role == "retired":
            continue
        retrain = _retraining_reason(analysis, state, race.race.arm)
        decisions.append(commands.rollback(state, race.race.arm, analysis.provenance(*reason), retrain))
        state = apply(state, decisions[-1])
    return decisions


def _rollback_reason(analysis: _Analysis, race: RaceStatus) -> RollbackReason:
    if race.decided:
        return "click-race", _race_lost_text(race, analysis.state.rules.outcome)
    return _fallback_limit_reason(analysis, race)


def _fallback_limit_reason(analysis: _Analysis, race: RaceStatus) -> RollbackReason:
    rules = analysis.state.rules
    latest = _latest_counts(analysis.sums, race.race.arm, race.race.from_version, rules.burn_in_units)
    if latest.n >= rules.burn_in_units and latest.fallback > rules.fallback_limit:
        return "fallback-limit", _fallback_text(race.race.arm, latest, rules.fallback_limit)
    return None


def _race_lost_text(race: RaceStatus, outcome: str) -> str:
    counts = f"{race.arm.s} of {race.arm.n} units with a {outcome}"
    others = f"{race.race.against} {race.against.s} of {race.against.n}"
    evidence = f"E = {_exp_text(race.log_e)} reached 1/α = {_exp_text(race.log_threshold)}"
    return f"{race.race.arm} is taken out: {counts}, {others}; {evidence}."


def _fallback_text(arm: str, latest: Counts, limit: float) -> str:
    answered = f"{latest.f} of its latest {latest.n} units had to be answered by another arm"
    return f"{arm} is taken out: {answered}, {limit:.0%} are allowed."


def _retraining_reason(analysis: _Analysis, state: Experiment, arm: str) -> str:
    """Why the rollback of a fresh champion requests a new model; empty within the cool-down of the last
    request.

    The request is part of the rollback's record, because a second record could be lost and no later look
    would repeat it."""
    since_ms = analysis.observation.now_ms - state.retrain_at_ms
    cooled = not state.retrain_at_ms or since_ms >= 1000 * state.rules.cool_down_s
    return f"{arm} failed as fresh champion" if arm == analysis.state.champion and cooled else ""


def _latest_counts(sums: ExperimentSums, arm: str, from_version: int, units: int) -> Counts:
    """Counts of the latest hours that hold at least `units` units, so that an arm that starts to fail is
    detected at once."""
    total = Counts()
    for counts in reversed(sums.by_hour(arm, from_version).values()):
        total += counts
        if total.n >= units:
            break
    return total


# ---- allocate ----------------------------------------------------------------------------------------------


def _allocate(analysis: _Analysis) -> Decision:
    state, rules = analysis.state, analysis.state.rules
    update = next_weights(state, analysis.sums, analysis.beliefs, analysis.observation.loaded)
    changed = [
        f"{name} {state.weights.shares[name]:.1%} → {share:.1%}"
        for name, share in update.shares.items()
        if share != state.weights.shares[name]
    ]
    reason = ", ".join(changed) + "." if changed else "Weights are kept."
    if update.why == "too-few-units":
        new = new_units(state, analysis.sums)
        reason = f"{new} new units since the last update, {rules.min_new_units} are needed: weights are kept."
    return commands.allocate(
        state, update.shares, update.ramp, analysis.sums.units, analysis.provenance(update.why, reason)
    )


# ---- evidence ----------------------------------------------------------------------------------------------


def _evidence(analysis: _Analysis) -> Evidence:
    """All numbers on which a decision is based."""
    names = list(analysis.beliefs)
    best = dict(zip(names, p_best(list(analysis.beliefs.values())).tolist(), strict=True))
    return Evidence(
        watermark_ms=analysis.observation.watermark_ms,
        new_units=new_units(analysis.state, analysis.sums),
        arms={name: _arm_evidence(analysis, name, best[name]) for name in names},
        races=[_race_evidence(race) for race in analysis.races],
        accounting={arm: dict(account) for arm, account in sorted(analysis.sums.accounts.items())},
    )


def _arm_evidence(analysis: _Analysis, name: str, best: float) -> ArmEvidence:
    counts, belief = analysis.sums.arm(name), analysis.beliefs[name]
    low, high = belief.interval()
    return ArmEvidence(
        n=counts.n,
        s=counts.s,
        rate=counts.rate,
        a=belief.a,
        b=belief.b,
        posterior_mean=belief.mean,
        low=low,
        high=high,
        p_best=best,
        weight=analysis.state.weights.shares[name],
        fallback=counts.fallback,
    )


def _race_evidence(status: RaceStatus) -> RaceEvidence:
    race = status.race
    return RaceEvidence(
        arm=race.arm,
        against=race.against,
        index=race.index,
        from_version=race.from_version,
        alpha=race.alpha,
        log_e=status.log_e,
        log_threshold=status.log_threshold,
        s_arm=status.arm.s,
        s_against=status.against.s,
        n_arm=status.arm.n,
        n_against=status.against.n,
    )


def _exp_text(log: float) -> str:
    """Format e^log for people, also if it is too large for a float."""
    return f"{math.exp(log):,.1f}" if log < 14 else f"10^{log / math.log(10):.1f}"
