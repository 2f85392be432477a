"""The shipped rule as a whole: real decisions from `verdict.look`, folded, on simulated sums with a trend."""

import math

import numpy as np
import pytest

from experiments.decision_rules import Observation, look
from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.fold import apply
from experiments.lifecycle.state import Experiment, Rules

HOUR = 3_600_000


def live_through(rates: dict[str, float], seed: int, looks: int = 30, units: int = 2_000) -> Experiment:
    """An experiment from its start; the common rate doubles half-way. Two looks an hour."""
    rng, sums = np.random.default_rng(seed), {}
    names = list(rates)
    rules = Rules(half_life_s=7 * 86_400)
    first = commands.Deployed(names[0], names[0])
    state = apply(None, commands.start("shop", first, rules, str(seed), Provenance("ann", 0)))
    for name in names[1:]:
        state = apply(state, commands.enter(state, name, name, Provenance("ann", 0)))
    for i in range(looks):
        live, shares = zip(*state.weights.shares.items(), strict=True)
        shown = rng.multinomial(units, np.array(shares) / sum(shares))
        for name, n in zip(live, shown.tolist(), strict=True):
            s = int(rng.binomial(n, rates[name] * (2 if i >= looks / 2 else 1)))
            key = f"{state.weights.version}|{name}|{i // 2}|"
            sums[f"{key}n"] = sums.get(f"{key}n", 0) + n
            sums[f"{key}s"] = sums.get(f"{key}s", 0) + s
        now_ms = i * HOUR // 2
        sight = Observation(now_ms=now_ms, sums=sums, watermark_ms=now_ms, loaded=frozenset(names))
        for decision in look(state, sight):
            state = apply(state, decision)
    return state


def rolled_back(state: Experiment) -> set[str]:
    return {name for name, arm in state.arms.items() if arm.role == "retired"}


def test_a_better_challenger_wins_and_a_broken_one_leaves():
    for seed in range(3):
        state = live_through({"pop": 0.04, "broken": 0.02, "better": 0.055}, seed)
        assert rolled_back(state) == {"broken"}
        assert state.weights.shares["better"] >= 0.6


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_equal_arms_are_rolled_back_no_more_often_than_alpha():
    runs = 200
    gone = [rolled_back(live_through({"pop": 0.04, "a": 0.04, "b": 0.04}, seed)) for seed in range(runs)]
    alpha = 0.05  # of all races of an experiment together
    assert sum(map(bool, gone)) / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)
