"""Thompson sampling over arms in batches: w_k = f + (1 - K f) P_k, made safe by a ramp, floors and a cap.

A challenger in burn-in gets the share of its ramp step, and a holdback the floor. The champion and the other
challengers divide the rest by the formula, with floor f and probability of being best P_k. The champion is
then raised to its own floor. The weights move from the present ones towards this target, each by at most
`cap`. Source:
statistics.md 2.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from experiments.counting.sums import Counts, ExperimentSums
from experiments.inference.beta_posterior import Posterior, p_best
from experiments.lifecycle.state import Arm, Experiment

Shares = dict[str, float]
MIN_CHANGE = 0.005  # a smaller change is not worth a weights version, which lives as long as its sums
ROUNDING_ERROR = 1e-9  # rounding error of a share
SHARE_DECIMALS = 4  # decimals of a share


@dataclass(frozen=True, slots=True)
class WeightsUpdate:
    """New shares and why. `why` is the rule: "too-few-units" (kept), "burn-in" or "thompson"; `ramp`: steps
    taken."""

    shares: Shares
    why: str
    ramp: Mapping[str, int]


def new_units(state: Experiment, sums: ExperimentSums) -> int:
    """Units matured since the last update of the weights; all of them if counting restarted after a
    loss."""
    known = state.units_at_update
    return sums.units - known if sums.units >= known else sums.units


def next_weights(
    state: Experiment, sums: ExperimentSums, beliefs: Mapping[str, Posterior], loaded: frozenset[str]
) -> WeightsUpdate:
    """The next vector over the live arms. `loaded`: model versions that every live replica has loaded;
    without that no arm gets its first weight."""
    arms, shares, rules = state.live_arms(), state.weights.shares, state.rules
    absent = [arm for arm in arms if not shares[arm.name]]
    waiting = {arm.name for arm in absent if arm.model_version not in loaded}
    enough = new_units(state, sums) >= rules.min_new_units
    if not enough and len(waiting) == len(absent):
        return WeightsUpdate(dict(shares), "too-few-units", {})
    burning = [arm for arm in arms if arm.name not in waiting and in_burn_in(state, sums, arm)]
    ramp = {arm.name: _next_ramp_step(arm, sums, state, enough) for arm in burning}
    fixed = dict.fromkeys(waiting, 0.0) | {name: rules.ramp[step - 1] for name, step in ramp.items()}
    moved = _rounded(_move_towards(shares, _target(state, fixed, beliefs), rules.cap), state.champion)
    worth_it = max(abs(moved[name] - shares[name]) for name in shares) >= MIN_CHANGE
    return WeightsUpdate(moved if worth_it else dict(shares), "burn-in" if ramp else "thompson", ramp)


def in_burn_in(state: Experiment, sums: ExperimentSums, arm: Arm) -> bool:
    """A challenger, until it and the champion have enough matured units and successes (its own since it
    entered)."""
    if arm.role != "challenger":
        return False
    own, champion = sums.arm(arm.name, arm.since_version), sums.arm(state.champion)
    return not all(_enough(counts, state) for counts in (own, champion))


def _enough(counts: Counts, state: Experiment) -> bool:
    return counts.n >= state.rules.burn_in_units and counts.s >= state.rules.burn_in_successes


def _next_ramp_step(arm: Arm, sums: ExperimentSums, state: Experiment, enough: bool) -> int:
    """Ramp step (from 1) after this update: up by one, but not before the arm's first units have
    matured."""
    matured = sums.arm(arm.name, arm.since_version).n > 0
    return min(max(1, arm.ramp_step + (enough and matured)), len(state.rules.ramp))


def _target(state: Experiment, fixed: Shares, beliefs: Mapping[str, Posterior]) -> Shares:
    rules, live = state.rules, [arm for arm in state.live_arms() if fixed.get(arm.name) != 0.0]
    floor = min(rules.floor if len(live) <= 2 else rules.floor_many, (1 - rules.champion_floor) / len(live))
    fixed = fixed | {arm.name: floor for arm in live if arm.role == "holdback"}
    competing = [arm.name for arm in live if arm.name not in fixed]
    fixed = _scale_to_fit(fixed, 1 - rules.champion_floor - floor * (len(competing) - 1))
    mass = 1 - math.fsum(fixed.values())
    best = p_best([beliefs[name] for name in competing])
    won = floor + (mass - floor * len(competing)) * best
    shares = dict(zip(competing, won.tolist(), strict=True))
    return fixed | _raise_champion_to_floor(shares, state.champion, rules.champion_floor, floor)


def _scale_to_fit(shares: Shares, room: float) -> Shares:
    """Scale all shares down by one factor if their sum exceeds `room`."""
    total = math.fsum(shares.values())
    return {name: w * min(1.0, room / total) for name, w in shares.items()} if total else shares


def _raise_champion_to_floor(shares: Shares, champion: str, least: float, floor: float) -> Shares:
    """Give the champion at least `least`, taken from what the others have above the floor."""
    missing = least - shares[champion]
    surplus = {name: w - floor for name, w in shares.items() if name != champion}
    if missing <= ROUNDING_ERROR:
        return shares
    left = 1 - missing / math.fsum(surplus.values())
    return {champion: least} | {name: floor + w * left for name, w in surplus.items()}


def _move_towards(shares: Mapping[str, float], target: Shares, cap: float) -> Shares:
    """From `shares` towards `target` on the straight line, no weight moving by more than `cap`."""
    furthest = max(abs(target[name] - shares[name]) for name in target)
    part = min(1.0, cap / furthest) if furthest else 1.0
    return {name: shares[name] + part * (target[name] - shares[name]) for name in target}


def _rounded(shares: Shares, champion: str) -> Shares:
    others = {name: float(np.round(w, SHARE_DECIMALS)) for name, w in shares.items() if name != champion}
    return {champion: round(1.0 - math.fsum(others.values()), SHARE_DECIMALS)} | others
