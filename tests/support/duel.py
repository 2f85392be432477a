"""Many duels of one challenger and a champion at once: Thompson sampling moves the traffic while the race is
run.

Vectorised over runs: every look draws counts, adds to the stakes of the shipped click race, and moves the
weights by the shipped rule (floor, champion floor, cap, ramp). P(best) of two arms is taken from normal
approximations of their posteriors here (test_power_and_errors checks it against the shipped quadrature); the
race is valid for any weights.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from experiments.inference.click_race import GRID, Hypothesis, log_evidence, log_stakes, rollback_hypothesis
from experiments.lifecycle.state import Rules

RULES = Rules()


@dataclass(frozen=True)
class Duel:
    """What is simulated. `ratio`: challenger's rate over champion's; `doubling`: the common rate doubles
    half-way; `failover`: share of the challenger's answers that the champion gives; `left_out`: ... which are
    not counted."""

    rate: float = 0.02
    ratio: float = 1.0
    looks: int = 200
    units_per_look: int = 1_000
    doubling: bool = False
    floor: float = 0.10
    ramp: bool = True
    failover: float = 0.0
    left_out: bool = False

    def rate_at(self, look: int) -> float:
        return self.rate * (2 if self.doubling and look >= self.looks / 2 else 1)


@dataclass(frozen=True)
class Outcome:
    """peak: the largest ln E that each run ever saw, float64 [runs]; pooled: whether an asymptotic confidence
    sequence on pooled means ever said "worse than the margin", bool [runs]; at: units until ln E passed ln
    1/α of `run`."""

    peak: NDArray[np.float64]
    pooled: NDArray[np.bool_]
    at: NDArray[np.float64]

    def share_decided(self, alpha: float = 0.05) -> float:
        return float((self.peak >= -math.log(alpha)).mean())


def run(duel: Duel, runs: int, seed: int, side: Hypothesis | None = None, alpha: float = 0.05) -> Outcome:
    """Play `runs` duels; the race is `side`'s (default: rollback at the rules' margin)."""
    rng = np.random.default_rng(seed)
    side = side or rollback_hypothesis(RULES.margin)
    n, s = np.zeros((2, runs)), np.zeros((2, runs))  # row 0: champion, row 1: challenger
    share, step = np.full(runs, RULES.ramp[0] if duel.ramp else 0.5), np.zeros(runs, int)
    stakes, peak = np.zeros((runs, GRID)), np.full(runs, -np.inf)
    pooled, at = np.zeros(runs, bool), np.full(runs, np.inf)
    for look in range(duel.looks):
        new_n, new_s = _draw(rng, duel, duel.rate_at(look), share)
        n, s = n + new_n, s + new_s
        stakes += log_stakes(new_s[1], new_s[0], share, 1 - share, side)
        log_e = log_evidence(stakes)
        peak = np.maximum(peak, log_e)
        at = np.where(np.isinf(at) & (log_e >= -math.log(alpha)), (look + 1) * duel.units_per_look, at)
        pooled |= _pooled_rule(n, s, side.bound, duel.looks * duel.units_per_look)
        share, step = _next_share(duel, n, s, share, step)
    return Outcome(peak, pooled, at)


def _draw(rng: np.random.Generator, duel: Duel, rate: float, share: NDArray) -> tuple[NDArray, NDArray]:
    challenger = rng.binomial(duel.units_per_look, share)
    champion = duel.units_per_look - challenger
    failed = rng.binomial(challenger, duel.failover)
    answered = rng.binomial(challenger - failed, rate * duel.ratio)
    rescued = rng.binomial(failed, rate)
    counted = challenger - failed if duel.left_out else challenger
    successes = answered if duel.left_out else answered + rescued
    return np.array([champion, counted]), np.array([rng.binomial(champion, rate), successes])


def normal_p_best(n: NDArray, s: NDArray) -> NDArray:
    """P(challenger is better), with the shipped prior and normal approximations of both posteriors."""
    prior = (s[0] + 0.5) / (n[0] + 1) * RULES.pseudo_units
    a, b = s + prior, n - s + RULES.pseudo_units - prior
    mean = a / (a + b)
    variance = mean * (1 - mean) / (a + b + 1)
    return ndtr((mean[1] - mean[0]) / np.sqrt(variance.sum(axis=0)))


def _next_share(duel: Duel, n: NDArray, s: NDArray, share: NDArray, step: NDArray) -> tuple[NDArray, NDArray]:
    target = duel.floor + (1 - 2 * duel.floor) * normal_p_best(n, s)
    target = np.minimum(target, 1 - RULES.champion_floor)
    if duel.ramp:
        burning = ((n < RULES.burn_in_units) | (s < RULES.burn_in_successes)).any(axis=0)
        step = np.minimum(step + 1, len(RULES.ramp) - 1)
        target = np.where(burning, np.array(RULES.ramp)[step], target)
    return share + np.clip(target - share, -RULES.cap, RULES.cap), step


def _pooled_rule(n: NDArray, s: NDArray, bound: float, horizon: int, alpha: float = 0.05) -> NDArray:
    """Asymptotic confidence sequence (normal mixture, one-sided, tuned to half the horizon) on
    mean of the challenger - bound x mean of the champion, as if all units of an arm were alike."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, total = s / n, n.sum(axis=0)
        variance = mean * (1 - mean) / n
        v = total**2 * (variance[1] + bound**2 * variance[0])
        rho = v * (horizon / 2 / total) / (2 * math.log(1 / alpha) + math.log(1 + 2 * math.log(1 / alpha)))
        limit = np.sqrt((v + rho) * np.log((v + rho) / (rho * (2 * alpha) ** 2)))
        return (s[1] > 0) & (total * (mean[1] - bound * mean[0]) < -limit)
