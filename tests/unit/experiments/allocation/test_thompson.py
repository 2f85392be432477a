"""Weights: floors, cap, ramp and keeping, for any arms and any sums."""

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.allocation.thompson import in_burn_in, next_weights
from experiments.counting.sums import ExperimentSums
from experiments.inference.beta_posterior import posteriors
from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.fold import apply
from experiments.lifecycle.state import Experiment, Rules

ANN = Provenance("ann", 1)


def running(*challengers, shares=None, rules=None) -> Experiment:
    rules = rules or Rules()
    state = apply(None, commands.start("shop", commands.Deployed("pop", "pop-v"), rules, "salt", ANN))
    for arm in challengers:
        state = apply(state, commands.enter(state, arm, f"{arm}-v", ANN))
    return allocated(state, shares) if shares else state


def allocated(state, shares, ramp=(), units=0):
    return apply(state, commands.allocate(state, shares, dict(ramp), units, ANN))


def counts(**arms):
    """Sums at version 9 of (units, successes) by arm."""
    return ExperimentSums.parse(
        {f"9|{arm}|0|{what}": x for arm, c in arms.items() for what, x in zip("ns", c, strict=True)}
    )


def step(state, parsed, loaded=None):
    names = [arm.name for arm in state.live_arms()]
    loaded = frozenset(f"{name}-v" for name in names) if loaded is None else loaded
    return next_weights(state, parsed, posteriors(parsed, names, state.champion, state.rules), loaded)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1).map(Random), st.integers(1, 4))
def test_floors_and_cap_hold_over_any_history(random, challengers):
    state, rules = running(*[f"m{i}" for i in range(challengers)]), Rules()
    sums = {}
    for _ in range(12):
        for arm, share in state.weights.shares.items():
            n = round(1_000 * share)
            key = f"{state.weights.version}|{arm}|0|"
            sums[f"{key}n"] = sums.get(f"{key}n", 0) + n
            sums[f"{key}s"] = sums.get(f"{key}s", 0) + random.randrange(n // 5 + 1)
        update = step(state, ExperimentSums.parse(sums))
        assert math.isclose(math.fsum(update.shares.values()), 1, abs_tol=1e-12)
        assert all(abs(w - state.weights.shares[arm]) <= rules.cap + 2e-4 for arm, w in update.shares.items())
        assert update.shares["pop"] >= rules.champion_floor - 2e-3
        state = allocated(state, update.shares, update.ramp, ExperimentSums.parse(sums).units)
    floor = rules.floor if challengers == 1 else rules.floor_many
    settled = [arm for arm in state.live_arms() if not in_burn_in(state, ExperimentSums.parse(sums), arm)]
    assert all(state.weights.shares[arm.name] >= floor - 1e-3 for arm in settled)


def test_a_better_arm_gets_all_but_the_floors():
    state = running("als", shares={"pop": 0.5, "als": 0.5})
    parsed = counts(pop=(5_000, 100), als=(5_000, 200))
    for _ in range(5):
        state = allocated(state, step(state, parsed).shares)
    assert state.weights.shares == {"pop": 0.2, "als": 0.8}
    worse = counts(pop=(5_000, 200), als=(5_000, 100))
    for _ in range(5):
        state = allocated(state, step(state, worse).shares)
    assert state.weights.shares == {"pop": 0.9, "als": 0.1}


def test_weights_are_the_probability_of_being_best_above_the_floor():
    state = running("als", shares={"pop": 0.6, "als": 0.4})
    update = step(state, counts(pop=(5_000, 100), als=(5_000, 100)))
    assert (update.why, update.shares) == ("thompson", {"pop": 0.5, "als": 0.5})


def test_the_ramp_rises_with_matured_units_until_burn_in():
    state, seen = running("als"), []
    histories = [(0, 0), (0, 0), (90, 1), (300, 6), (600, 15), (900, 19), (1_000, 20)]
    for i, (n, s) in enumerate(histories):
        update = step(state, counts(pop=(1_000 + 300 * i, 30), als=(n, s)))
        state = allocated(state, update.shares, update.ramp, units=0)
        seen.append((update.why, update.shares["als"]))
    shares = [share for _, share in seen]
    assert shares[:6] == [0.05, 0.05, 0.10, 0.25, 0.25, 0.25]
    assert [why for why, _ in seen] == ["burn-in"] * 6 + ["thompson"]


def test_an_arm_waits_at_zero_until_every_replica_has_it():
    state = running("als")
    parsed = counts(pop=(1_000, 30))
    assert step(state, parsed, frozenset({"pop-v"})).shares == {"pop": 1.0, "als": 0.0}
    assert step(state, parsed).shares == {"pop": 0.95, "als": 0.05}


def test_an_arm_with_weight_keeps_it_while_a_replica_starts():
    state = running("als", shares={"pop": 0.5, "als": 0.5})
    update = step(state, counts(pop=(5_000, 100), als=(5_000, 100)), loaded=frozenset())
    assert update.shares == {"pop": 0.5, "als": 0.5}


def test_too_few_new_units_only_let_an_arm_in():
    state = running("als", shares={"pop": 0.6, "als": 0.4})
    parsed = counts(pop=(5_000, 150), als=(5_000, 100))
    state = allocated(state, {"pop": 0.5, "als": 0.5}, units=parsed.units - 199)
    assert (step(state, parsed).why, step(state, parsed).shares) == (
        "too-few-units",
        {"pop": 0.5, "als": 0.5},
    )
    state = apply(state, commands.enter(state, "text", "text-v", ANN))
    assert 0 < step(state, parsed).shares["text"] <= 0.05


def test_the_holdback_stays_at_the_floor_whoever_is_best():
    state = running("als", shares={"pop": 0.5, "als": 0.5})
    state = apply(state, commands.promote(state, "als", ANN))
    update = step(state, counts(pop=(5_000, 300), als=(5_000, 100)))
    assert update.shares == {"als": 0.9, "pop": 0.1}


@pytest.mark.parametrize("challengers", [3, 4, 6])
def test_many_arms_in_burn_in_leave_the_champion_its_floor(challengers):
    names = [f"m{i}" for i in range(challengers)]
    state = running(*names, shares={"pop": 0.4} | dict.fromkeys(names, 0.6 / challengers))
    for _ in range(6):
        update = step(state, counts(pop=(1_000, 30), **dict.fromkeys(names, (50, 1))))
        state = allocated(state, update.shares, update.ramp)
    assert state.weights.shares["pop"] >= 0.2 - 1e-9
    assert min(state.weights.shares.values()) == pytest.approx(min(0.25, 0.8 / challengers), abs=1e-3)
