"""One look: evidence -> decisions, each with its reason. Pure; the decider appends what comes out, in order.

Missing data never rolls back: a stalled watermark, recorded data loss or accounting that does not close is a
HOLD, and the last weights stay. A stall lifts itself at the next good look; everything else waits for
`resume`, which acknowledges the causes that were recorded. Then rollbacks (click race, hard limit), then
weights. The hard limit acts also while a loss waits for a person: what is missing does not make an arm fail.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from experiments.allocation.thompson import new_units, next_weights
from experiments.counting.attribution_join import settled_ms
from experiments.counting.sums import HOUR_MS, Cell, Counts, Tally
from experiments.inference.beta_posterior import Posterior, p_best, posteriors
from experiments.inference.click_race import RaceStatus, standing
from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import ArmEvidence, Decision, Evidence, RaceEvidence
from experiments.lifecycle.fold import LIFTED_BY_A_LOOK, apply
from experiments.lifecycle.state import Experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the decider sees at one look.

    `sums`: flat sums of all partitions; `positions`: "topic/partition" -> offset they stand at;
    `watermark_ms`: the lowest of all partitions, None if some partition has none; `loaded`: model versions
    that every live replica reports as loaded; `losses`: recorded data losses by partition;
    `decided_at`: positions of the latest decision made from sums: behind them, sums are being rebuilt;
    `begins_anew`: partitions whose loss was accepted, and that still stand where it happened;
    `unreadable`: why there are no sums to see, though something is kept as such.
    """

    now_ms: int
    sums: Mapping[str, int]
    watermark_ms: int | None
    positions: Mapping[str, int] = field(default_factory=dict)
    loaded: frozenset[str] = frozenset()
    losses: Mapping[int, str] = field(default_factory=dict)
    decided_at: Mapping[str, int] = field(default_factory=dict)
    begins_anew: frozenset[int] = frozenset()
    unreadable: str = ""
    author: str = "decider"
    code_version: str = ""


def look(state: Experiment, sight: Observation) -> list[Decision]:
    """What follows from one look, in order; empty while paused, ended, or held by what only a person can
    lift, but for an arm over its hard limit."""
    waiting = state.held_by not in ("", *LIFTED_BY_A_LOOK)
    if state.status in ("paused", "ended") or (waiting and state.held_by != "data-loss"):
        return []
    try:
        view = _View.of(state, sight)
    except ValueError as error:
        return [] if waiting else _unreadable(state, sight, error)
    if waiting:
        return [] if _broken_identity(view) else _rollbacks(view, _over_limit)
    for rule, find in HOLDS.items():
        if causes := find(view):
            return [] if state.held_by == rule else [commands.hold(state, causes, view.provenance(rule))]
    return _rollbacks(view, _fault) or [_allocate(view)]


@dataclass(frozen=True, slots=True)
class _View:
    """A sight with what is computed from it once."""

    state: Experiment
    sight: Observation
    tally: Tally
    beliefs: Mapping[str, Posterior]
    standings: tuple[RaceStatus, ...]

    @classmethod
    def of(cls, state: Experiment, sight: Observation) -> "_View":
        """Raises ValueError if the sums can't be this experiment's."""
        if sight.unreadable:
            raise ValueError(sight.unreadable)
        tally = Tally.parse(sight.sums)
        if unknown := {version for version, _, _ in tally.cells} - state.versions.keys():
            raise ValueError(f"sums: weights version {min(unknown)} was never in force")
        if impossible := tally.impossible():
            raise ValueError(f"sums: {_named(impossible[0])} holds impossible counts")
        arms = [arm.name for arm in state.live_arms()]
        beliefs = posteriors(tally, arms, state.champion, state.rules)
        return cls(state, sight, tally, beliefs, tuple(standing(state, tally, race) for race in state.races))

    def provenance(self, rule: str, reason: str = "") -> Provenance:
        return Provenance(
            author=self.sight.author,
            now_ms=self.sight.now_ms,
            rule=rule,
            reason=reason,
            evidence=_evidence(self),
            positions=self.sight.positions,
            sums_digest=self.tally.digest(),
            code_version=self.sight.code_version,
        )


def _unreadable(state: Experiment, sight: Observation, error: ValueError) -> list[Decision]:
    """Sums that nobody could have counted: a HOLD with the key that is wrong, and no evidence to show."""
    rule = "broken-identity"
    if state.held_by == rule:
        return []
    provenance = Provenance(
        author=sight.author,
        now_ms=sight.now_ms,
        rule=rule,
        positions=sight.positions,
        code_version=sight.code_version,
    )
    return [commands.hold(state, [str(error)], provenance)]


# ---- hold --------------------------------------------------------------------------------------------------


def _losses(view: _View) -> list[str]:
    found = [f"partition {partition}: {loss}" for partition, loss in sorted(view.sight.losses.items())]
    return [cause for cause in found if cause not in view.state.acknowledged]


def _behind(view: _View) -> list[str]:
    now, then, again = view.sight.positions, view.sight.decided_at, view.sight.begins_anew
    if again:  # a decision now would name positions that a new log may not reach for weeks
        return [f"after an accepted loss counting has not begun anew yet: partitions {sorted(again)}"]
    lost = sorted(pair for pair, offset in then.items() if now.get(pair, 0) < offset)
    if not lost:
        return []
    first = f"{lost[0]} stands at {now.get(lost[0], 0)}, an earlier decision was made at {then[lost[0]]}"
    return [f"the sums are being counted again ({len(lost)} positions are behind: {first})"]


def _broken_identity(view: _View) -> list[str]:
    tally = view.tally
    found = [
        f"arm {arm}: {gap} acknowledged events are not accounted for" for arm, gap in tally.gaps().items()
    ]
    found += [f"arm {arm}: {gap} exposures are not accounted for" for arm, gap in _exposure_gaps(tally)]
    found += [f"{_named(cell)}: more credited units than successes" for cell in tally.overcredited()]
    found += [f"{_named(cell)}: successes are not what the events credit" for cell in _uncredited(view)]
    return [cause for cause in found if cause not in view.state.acknowledged]


def _exposure_gaps(tally: Tally) -> list[tuple[str, int]]:
    return [(arm, gap) for arm, gap in tally.exposure_gaps().items() if "exposed" in tally.accounts[arm]]


def _uncredited(view: _View) -> list[Cell]:
    """Of hours whose events have all been passed, for arms whose sums hold both sides of the identity."""
    over_ms = (view.sight.watermark_ms or 0) - settled_ms(view.state.rules)
    cells = view.tally.uncredited(before_hour=over_ms // HOUR_MS)
    return [cell for cell in cells if "exposed" in view.tally.accounts.get(cell[1], {})]


def _named(cell: Cell) -> str:
    return "version {}, arm {}, hour {}".format(*cell)


def _stalled(view: _View) -> list[str]:
    seen_ms = max(view.sight.watermark_ms or 0, view.state.started_ms)
    behind_s = (view.sight.now_ms - seen_ms) / 1000
    if behind_s <= view.state.rules.stall_s:
        return []
    return [f"the watermark is {behind_s:.0f} s behind, {view.state.rules.stall_s:.0f} s are allowed"]


HOLDS: Mapping[str, Callable[[_View], list[str]]] = {
    "data-loss": _losses,
    "sums-behind": _behind,
    "broken-identity": _broken_identity,
    "stalled-watermark": _stalled,
}


# ---- roll back ---------------------------------------------------------------------------------------------


Fault = tuple[str, str] | None  # (rule, reason) if the raced arm must go


def _rollbacks(view: _View, fault: Callable[[_View, RaceStatus], Fault]) -> list[Decision]:
    decisions, state = [], view.state
    for race in view.standings:
        if (found := fault(view, race)) is None or state.arms[race.race.arm].role == "retired":
            continue
        retrain = _why_retrain(view, state, race.race.arm)
        decisions.append(commands.rollback(state, race.race.arm, view.provenance(*found), retrain))
        state = apply(state, decisions[-1])
    return decisions


def _fault(view: _View, race: RaceStatus) -> Fault:
    if race.decided:
        return "click-race", _race_lost(race, view.state.rules.outcome)
    return _over_limit(view, race)


def _over_limit(view: _View, race: RaceStatus) -> Fault:
    rules = view.state.rules
    latest = _latest(view.tally, race.race.arm, race.race.from_version, rules.burn_in_units)
    if latest.n >= rules.burn_in_units and latest.fallback > rules.fallback_limit:
        return "fallback-limit", _falls_back(race.race.arm, latest, rules.fallback_limit)
    return None


def _race_lost(race: RaceStatus, outcome: str) -> str:
    counts = f"{race.arm.s} of {race.arm.n} units with a {outcome}"
    others = f"{race.race.against} {race.against.s} of {race.against.n}"
    evidence = f"E = {_large(race.log_e)} reached 1/α = {_large(race.log_threshold)}"
    return f"{race.race.arm} is taken out: {counts}, {others}; {evidence}."


def _falls_back(arm: str, latest: Counts, limit: float) -> str:
    answered = f"{latest.f} of its latest {latest.n} units had to be answered by another arm"
    return f"{arm} is taken out: {answered}, {limit:.0%} are allowed."


def _why_retrain(view: _View, state: Experiment, arm: str) -> str:
    """With the rollback of a fresh champion, unless one was asked for within the cool-down; empty: not. It
    goes into the rollback's record: of two records the second could be lost, and no later look would find
    it."""
    since_ms = view.sight.now_ms - state.retrain_at_ms
    cooled = not state.retrain_at_ms or since_ms >= 1000 * state.rules.cool_down_s
    return f"{arm} failed as fresh champion" if arm == view.state.champion and cooled else ""


def _latest(tally: Tally, arm: str, from_version: int, units: int) -> Counts:
    """Counts of the latest hours that hold at least `units` units: an arm that starts to fail is seen at
    once."""
    found = Counts()
    for counts in reversed(tally.by_hour(arm, from_version).values()):
        found += counts
        if found.n >= units:
            break
    return found


# ---- allocate ----------------------------------------------------------------------------------------------


def _allocate(view: _View) -> Decision:
    state, rules = view.state, view.state.rules
    update = next_weights(state, view.tally, view.beliefs, view.sight.loaded)
    changed = [
        f"{name} {state.weights.shares[name]:.1%} → {share:.1%}"
        for name, share in update.shares.items()
        if share != state.weights.shares[name]
    ]
    reason = ", ".join(changed) + "." if changed else "Weights are kept."
    if update.why == "too-few-units":
        new = new_units(state, view.tally)
        reason = f"{new} new units since the last update, {rules.min_new_units} are needed: weights are kept."
    return commands.allocate(
        state, update.shares, update.ramp, view.tally.units, view.provenance(update.why, reason)
    )


# ---- evidence ----------------------------------------------------------------------------------------------


def _evidence(view: _View) -> Evidence:
    """Every number that a decision was made from."""
    names = list(view.beliefs)
    best = dict(zip(names, p_best(list(view.beliefs.values())).tolist(), strict=True))
    return Evidence(
        watermark_ms=view.sight.watermark_ms,
        new_units=new_units(view.state, view.tally),
        arms={name: _arm_evidence(view, name, best[name]) for name in names},
        races=[_race_evidence(race) for race in view.standings],
        accounting={arm: dict(account) for arm, account in sorted(view.tally.accounts.items())},
    )


def _arm_evidence(view: _View, name: str, best: float) -> ArmEvidence:
    counts, belief = view.tally.arm(name), view.beliefs[name]
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
        weight=view.state.weights.shares[name],
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


def _large(log: float) -> str:
    """e^log for a person, however large."""
    return f"{math.exp(log):,.1f}" if log < 14 else f"10^{log / math.log(10):.1f}"
