"""Thompson sampling in batches costs no more clicks than one unit at a time (.02 against .016, 50,000
units)."""

import math

import numpy as np
import pytest

from experiments.lifecycle.state import Rules

RATES = np.array([0.02, 0.016])
UNITS, PSEUDO = 50_000, Rules().pseudo_units


def regrets(batch: int, runs: int, seed: int) -> np.ndarray:
    """Clicks lost against always showing the better arm, float64 [runs].

    Within a batch every unit draws both rates from the posteriors at its start and takes the larger: the
    arm's share is then P(best), which is what the shipped rule computes; no floor.
    """
    rng = np.random.default_rng(seed)
    n, s = np.zeros((2, runs)), np.zeros((2, runs))
    for _ in range(UNITS // batch):
        prior = PSEUDO * (s[0] + 0.5) / (n[0] + 1)
        a, b = s + prior, n - s + PSEUDO - prior
        drawn = rng.beta(np.repeat(a[:, None], batch, 1), np.repeat(b[:, None], batch, 1))
        second = (drawn[1] > drawn[0]).sum(axis=0)
        shown = np.array([batch - second, second])
        n, s = n + shown, s + rng.binomial(shown, RATES[:, None])
    return n[1] * (RATES[0] - RATES[1])


def agree(one: np.ndarray, other: np.ndarray) -> bool:
    error = math.hypot(*(x.std(ddof=1) / math.sqrt(len(x)) for x in (one, other)))
    return abs(one.mean() - other.mean()) < 3 * error


def test_batches_of_1000_and_5000_have_equal_regret():
    small, large = regrets(1_000, 100, 1), regrets(5_000, 100, 2)
    assert agree(small, large)
    assert small.mean() < 0.5 * UNITS * (RATES[0] - RATES[1]) / 2  # far better than splitting evenly


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_batches_cost_no_more_than_single_units(capsys):
    found = {batch: regrets(batch, 400, batch) for batch in (1, 1_000, 5_000)}
    with capsys.disabled():
        for batch, lost in found.items():
            print(
                f"\nbatch {batch}: {lost.mean():.1f} ± {lost.std(ddof=1) / math.sqrt(len(lost)):.1f} clicks",
                end="",
            )
        print()
    assert agree(found[1], found[1_000])
    assert agree(found[1], found[5_000])
    assert agree(found[1_000], found[5_000])
