"""The discounted Beta posterior of each arm's success rate, and each arm's probability of being best.

The prior is worth `pseudo_units` units at the champion's own rate (Beta(1, 1) over-explores where rates are 2
%). P(best) = ∫ f_k ∏_{j≠k} F_j by quadrature, not Monte Carlo: the same sums give the same weights.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv

from experiments.counting.sums import ExperimentSums
from experiments.lifecycle.state import Rules

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
NEGLIGIBLE = (
    1e-12  # probability below which a panel adds nothing (and betaincinv would answer nan, below 1e-16)
)

# Panels end at these quantiles of every arm: no posterior's rise, however steep, falls between two nodes.
_TAIL = np.array([1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 0.01, 0.05, 0.2])
_QUANTILES = np.concatenate([_TAIL, [0.5], 1 - _TAIL[::-1]])

# Least prior parameters: below them the quantiles of a Beta are no longer distinct float64 numbers.
MIN_A, MIN_B = 0.05, 0.5


@dataclass(frozen=True, slots=True)
class Posterior:
    """Beta(a, b) over a success rate."""

    a: float
    b: float

    @property
    def mean(self) -> float:
        """a / (a + b)."""
        return self.a / (self.a + self.b)

    @property
    def variance(self) -> float:
        """m (1 - m) / (a + b + 1)."""
        return self.mean * (1 - self.mean) / (self.a + self.b + 1)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Central credible interval."""
        tail = (1 - level) / 2
        low, high = betaincinv(self.a, self.b, [tail, 1 - tail])
        return float(low), float(high)


def posteriors(
    sums: ExperimentSums, arms: Iterable[str], champion: str, rules: Rules
) -> dict[str, Posterior]:
    """Posterior of each arm: prior at the champion's discounted rate, plus discounted successes and
    failures."""
    units, successes = sums.discounted(champion, rules.half_life_s)
    rate = (successes + 0.5) / (units + 1)
    a_0, b_0 = max(MIN_A, rules.pseudo_units * rate), max(MIN_B, rules.pseudo_units * (1 - rate))
    discounted = {arm: sums.discounted(arm, rules.half_life_s) for arm in arms}
    return {arm: Posterior(a_0 + s, b_0 + n - s) for arm, (n, s) in discounted.items()}


def p_best(beliefs: Sequence[Posterior]) -> NDArray[np.float64]:
    """Probability of each arm of having the highest rate, float64 [k]; sums to 1.

    With u = F_k(x) the integral is ∫₀¹ ∏_{j≠k} F_j(F_k⁻¹(u)) du: bounded, free of the poles of a Beta
    density, and done by Gauss-Legendre between the quantiles of all arms.

    >>> p_best([Posterior(20, 80), Posterior(20, 80)]).round(6).tolist()
    [0.5, 0.5]
    """
    a, b = (np.array([getattr(belief, name) for belief in beliefs]) for name in "ab")
    edges = np.unique(betaincinv(a[:, None], b[:, None], _QUANTILES))
    probabilities = np.array([_probability_best(k, a, b, edges) for k in range(len(beliefs))])
    total = math.fsum(probabilities)
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        raise ArithmeticError(f"P(best) of {beliefs} sums to {total}")
    return probabilities / total


def _probability_best(
    k: int, a: NDArray[np.float64], b: NDArray[np.float64], edges: NDArray[np.float64]
) -> float:
    inner = betainc(a[k], b[k], edges)
    ends = np.unique(np.concatenate([[0.0], inner[inner > NEGLIGIBLE], [1.0]]))
    half = np.diff(ends)[:, None] / 2
    u = (ends[:-1, None] + half) + half * _NODES
    others = np.arange(len(a)) != k
    x = np.nan_to_num(betaincinv(a[k], b[k], u))  # scipy answers nan for some u below NEGLIGIBLE
    beaten = betainc(a[others, None, None], b[others, None, None], x).prod(axis=0)
    return float((beaten * half * _WEIGHTS).sum())
