"""Acceptance numbers of the click race under Thompson sampling: errors, power, intention to treat, where it
starts.

The unmarked tests play the 2,000 runs that were promised; the slow one plays 20,000 and prints what the
documentation says.
"""

import math
from functools import cache

import numpy as np
import pytest
from support.duel import RULES, Duel, Outcome, normal_p_best, run

from experiments.inference.beta_posterior import Posterior, p_best
from experiments.inference.click_race import (
    GRID,
    log_evidence,
    log_stakes,
    rollback_hypothesis,
)

RUNS = 2_000
MARGINS = (0.0, 0.03, 0.10, 0.20)
ALPHAS = [0.05 * 6 / (math.pi * i) ** 2 for i in range(1, 6)]


def allowed(alpha=0.05, runs=RUNS):
    """alpha and three standard errors of its estimate."""
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


@cache
def null_under_a_trend(margin: float) -> Outcome:
    return run(Duel(ratio=1 - margin, doubling=True), RUNS, 1, rollback_hypothesis(margin))


@pytest.mark.parametrize("margin", MARGINS)
def test_false_rollbacks_stay_within_alpha_under_a_trend(margin):
    outcome = null_under_a_trend(margin)
    assert outcome.share_decided() <= allowed()
    assert outcome.share_decided() >= 0.005  # the race bets, so the bound is not vacuous
    assert all(outcome.share_decided(alpha) <= allowed(alpha) for alpha in ALPHAS)


@pytest.mark.parametrize("margin", MARGINS[:3])
def test_a_rule_on_pooled_means_fails_the_scenario(margin):
    assert null_under_a_trend(margin).pooled.mean() > 0.3


def test_pooled_means_are_only_wrong_because_of_the_trend():
    assert run(Duel(), RUNS, 1, rollback_hypothesis(0)).pooled.mean() <= allowed()


@pytest.mark.parametrize(("margin", "power"), [(0.0, 0.92), (0.03, 0.78)])
def test_power_against_a_fifth_fewer_clicks(margin, power):
    assert run(Duel(ratio=0.8, ramp=False), RUNS, 2, rollback_hypothesis(margin)).share_decided() >= power


@pytest.mark.parametrize("failover", [0.05, 0.10])
def test_intention_to_treat_keeps_alpha_when_answers_fail_over(failover):
    assert (
        run(Duel(failover=failover, doubling=True), RUNS, 3, rollback_hypothesis(0)).share_decided()
        <= allowed()
    )


def test_leaving_failed_answers_out_would_not():
    assert run(Duel(failover=0.10, left_out=True), RUNS, 3, rollback_hypothesis(0)).share_decided() > 0.3


def after_a_promotion(fresh: bool, runs: int = 300) -> np.ndarray:
    """Units from its promotion until an arm that was 15 % better and is now 30 % worse is found, inf if
    never."""
    rng, side, alpha = np.random.default_rng(6), rollback_hypothesis(RULES.margin), ALPHAS[1]
    stakes, found = np.zeros((runs, GRID)), np.full(runs, np.inf)
    for look in range(300):
        promoted = look >= 100
        share, ratio = (0.9, 0.70) if promoted else (0.8, 1.15)
        n = rng.binomial(1_000, share, runs)
        s_a, s_0 = rng.binomial(n, 0.02 * ratio), rng.binomial(1_000 - n, 0.02)
        if promoted or not fresh:
            stakes += log_stakes(s_a, s_0, share, 1 - share, side)
        crossed = promoted & np.isinf(found) & (log_evidence(stakes) >= -math.log(alpha))
        found = np.where(crossed, 1_000 * (look - 99), found)
    return found


def test_a_fresh_champion_needs_a_race_of_its_own():
    fresh, carried = after_a_promotion(fresh=True), after_a_promotion(fresh=False)
    assert np.isfinite(fresh).mean() >= 0.97
    assert 25_000 <= np.median(fresh) <= 75_000
    assert np.isfinite(carried).mean() <= 0.10


def test_the_simulated_weights_are_the_shipped_ones():
    rng = np.random.default_rng(7)
    n = rng.integers(1_000, 200_000, (2, 60)).astype(float)
    s = rng.binomial(n.astype(int), 0.02 * rng.uniform(0.9, 1.1, (2, 60)))
    prior = (s[0] + 0.5) / (n[0] + 1) * RULES.pseudo_units
    a, b = prior + s, RULES.pseudo_units - prior + n - s
    pairs = zip(a.T, b.T, strict=True)
    shipped = [p_best([Posterior(*x) for x in zip(*pair, strict=True)])[1] for pair in pairs]
    assert normal_p_best(n, s) == pytest.approx(np.array(shipped), abs=0.02)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_documented_numbers(capsys):
    """Ten times the runs; prints the tables of the documentation."""
    runs = 20_000
    lines = ["false rollbacks at ratio exactly 1 - d (constant rate, doubling rate; pooled means, doubling)"]
    for margin in MARGINS:
        still, trend = (
            run(Duel(ratio=1 - margin, doubling=x), runs, 11, rollback_hypothesis(margin)) for x in (0, 1)
        )
        lines.append(
            f"d = {margin:.0%}: {still.share_decided():.4f} {trend.share_decided():.4f}; "
            f"{trend.pooled.mean():.3f}"
        )
        assert max(still.share_decided(), trend.share_decided()) <= allowed(runs=runs)
    lines.append("power, challenger 20 % worse, floor 10 %, with the ramp, at α_1 … α_5")
    for rate, looks in ((0.02, 200), (0.10, 100)):
        for margin in MARGINS[:2]:
            won = run(
                Duel(rate=rate, ratio=0.8, looks=looks), runs, 12, rollback_hypothesis(margin), ALPHAS[0]
            )
            power = " ".join(f"{won.share_decided(alpha):.3f}" for alpha in ALPHAS)
            lines.append(
                f"{rate:.0%}, {looks},000 units, d = {margin:.0%}: {power}; median {np.median(won.at):,.0f}"
            )
            assert np.all(np.diff([won.share_decided(alpha) for alpha in ALPHAS]) <= 0)
    with capsys.disabled():
        print("\n" + "\n".join(lines))
