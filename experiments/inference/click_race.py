"""The click race: evidence, valid at any stopping time and under adaptive weights, that an arm's rate is
below a bound times another's.

Given that a success comes from one of two arms with propensities p_a and p_0, it comes from `a` with
probability q = p_a r / (p_a r + p_0), where r is the ratio of their rates, whatever common trend both follow.
Betting on r against the bound b, every success multiplies the stake by

    q_r / q_b = (r / b) · c        if it is a's,
    (1 - q_r) / (1 - q_b) = c      if it is the other's,      c = (p_a b + p_0) / (p_a r + p_0).

While the null hypothesis holds at every time, the mean stake E over a grid of r is a non-negative
supermartingale, so P(ever E >= 1/α) <= α (Ville). log E is a function of the sums. Source: statistics.md 3.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from experiments.counting.sums import Counts, ExperimentSums
from experiments.lifecycle.state import Experiment, Race

GRID = 14


@dataclass(frozen=True)
class Hypothesis:
    """Hypothesis of a race: null "rate ratio >= bound", alternatives below it."""

    bound: float
    alternatives: NDArray[np.float64]  # [14], log-spaced


def rollback_hypothesis(margin: float) -> Hypothesis:
    """Null: the challenger's rate is at least (1 - margin) times the champion's. E >= 1/α takes it out."""
    return Hypothesis(1 - margin, np.geomspace(0.30, 0.98, GRID) * (1 - margin))


def log_stakes(
    s_a: ArrayLike, s_0: ArrayLike, p_a: ArrayLike, p_0: ArrayLike, hypothesis: Hypothesis
) -> NDArray[np.float64]:
    """ln of the factor that successes s_a and s_0 under propensities p_a and p_0 put on each alternative.

    All four broadcast to a shape [...]; the answer is float64 [..., 14]. Where either propensity is 0 there
    is no race: ln 1.
    """
    s_a, s_0, p_a, p_0 = (np.asarray(x, np.float64)[..., None] for x in (s_a, s_0, p_a, p_0))
    r, b = hypothesis.alternatives, hypothesis.bound
    running = (p_a > 0) & (p_0 > 0)
    p_a, p_0 = np.where(running, p_a, 1.0), np.where(running, p_0, 1.0)
    return np.where(
        running, s_a * np.log(r / b) + (s_a + s_0) * np.log((p_a * b + p_0) / (p_a * r + p_0)), 0.0
    )


def log_evidence(log_stakes: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln E from the summed stakes [..., 14]: the mean over alternatives; float64 [...]."""
    log_sum: NDArray[np.float64] = logsumexp(log_stakes, axis=-1)
    return log_sum - math.log(log_stakes.shape[-1])


@dataclass(frozen=True, slots=True)
class RaceStatus:
    """Status of a race: ln E against ln 1/α, and the counts of both arms since it began."""

    race: Race
    log_e: float
    log_threshold: float
    arm: Counts
    against: Counts

    @property
    def decided(self) -> bool:
        """E >= 1/α."""
        return self.log_e >= self.log_threshold


def race_status(state: Experiment, sums: ExperimentSums, race: Race) -> RaceStatus:
    """Status of a race by the sums, over weights versions in which both arms had weight."""
    hypothesis = rollback_hypothesis(state.rules.margin)
    arm, against = (sums.by_version(name, race.from_version) for name in (race.arm, race.against))
    stakes = np.zeros(GRID)
    for version in sorted(arm.keys() | against.keys()):
        p = state.versions[version]
        s_a, s_0 = (counts.get(version, Counts()).s for counts in (arm, against))
        stakes = stakes + log_stakes(s_a, s_0, p.get(race.arm, 0.0), p.get(race.against, 0.0), hypothesis)
    log_e = float(log_evidence(stakes))
    return RaceStatus(race, log_e, -math.log(race.alpha), _total(arm), _total(against))


def _total(by_version: dict[int, Counts]) -> Counts:
    return sum(by_version.values(), Counts())
