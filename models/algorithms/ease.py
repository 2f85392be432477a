"""A linear item-item model with time decay: the closed form of EASE (Steck 2019, doi
10.1145/3308558.3313710).

With X the decayed user-item matrix, P = (XᵀX + λI)⁻¹ and B = −P / diag(P) with a zero diagonal, the score of
item j is Σ_i x_i B_ij over the user's recent items i. Only the `kept` largest coefficients of each row stay,
so that an answer reads recent × kept numbers, and a model holds n_items × kept instead of n_items².

The defaults were chosen on Online Retail II, on the window before the one that the report tests on.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from models.algorithms.popularity import popularity
from models.algorithms.time_decay import DAY_S, parameters, recent_weights, user_item
from models.algorithms.top_n import Ranked
from models.recommender import Catalogue, Interactions, Progress, Query, silent


@dataclass(frozen=True, slots=True)
class LinearParams:
    """λ, half-lives in days of what is learnt from and of what the user did; coefficients kept per item.

    `trend`: weight of the items' decayed popularity in the score.
    """

    regularization: float = 50.0
    half_life_days: float = 30.0
    recent_days: float = 60.0
    recent_places: float = 50.0
    kept: int = 256
    trend: float = 0.01
    trend_days: float = 5.0


@dataclass(frozen=True, eq=False)
class Linear(Ranked):
    """Row i holds the strongest coefficients of item i: `column` int32 and `value` float32, both [n_items,
    kept]."""

    algorithm = "linear"
    params_type = LinearParams
    reason = "goes with what you chose"
    similar_reason = "goes together"

    items: NDArray[np.str_]
    column: NDArray[np.int32]
    value: NDArray[np.float32]
    trend: NDArray[np.float32]
    params: LinearParams

    @classmethod
    def fit(
        cls,
        interactions: Interactions,
        catalogue: Catalogue,
        *,
        now_s: float,
        seed: int = 0,
        progress: Progress = silent,
        **params: Any,
    ) -> "Linear":
        """Invert one n_items x n_items matrix: O(n_items³) once, 8·n_items² bytes while fitting."""
        chosen = parameters(LinearParams, params)
        half_life_s = chosen.half_life_days * DAY_S
        matrix = user_item(interactions, len(catalogue), now_s=now_s, half_life_s=half_life_s)
        matrix.data = np.minimum(matrix.data, 1.0)
        progress(1, 3, "linear: co-occurrence")
        weights = ease((matrix.T @ matrix).toarray(), chosen.regularization)
        progress(2, 3, "linear: inverse")
        column, value = strongest(weights, min(chosen.kept, len(catalogue)))
        counts = popularity(interactions, len(catalogue), now_s=now_s, half_life_s=chosen.trend_days * DAY_S)
        trend = (counts / max(counts.max(initial=0.0), 1e-12)).astype(np.float32)
        progress(3, 3, "linear: strongest")
        return cls(catalogue.items, column, value, trend, chosen)

    def scores(self, query: Query) -> NDArray[np.float32] | None:
        """Decayed recent items times their coefficients, plus the weighted trend."""
        item, weight = recent_weights(query, self.params.recent_days * DAY_S, self.params.recent_places)
        if not len(item):
            return None
        pull = (np.minimum(weight, 1.0)[:, None] * self.value[item]).ravel()
        told = np.bincount(self.column[item].ravel(), weights=pull, minlength=len(self.items))
        return told.astype(np.float32) + np.float32(self.params.trend) * self.trend

    def similarity(self, item: int) -> NDArray[np.float32]:
        """The item's own coefficients; 0 for what was not kept."""
        scores = np.zeros(len(self.items), np.float32)
        scores[self.column[item]] = self.value[item]
        return scores

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON parameters."""
        arrays = {name: getattr(self, name) for name in ("items", "column", "value", "trend")}
        return arrays, asdict(self.params)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], params: Mapping[str, Any]) -> "Linear":
        """Inverse of `to_arrays`."""
        return cls(**arrays, params=parameters(LinearParams, dict(params)))


def ease(gram: NDArray[np.floating], regularization: float) -> NDArray[np.float32]:
    """Coefficients B, float32 [n, n] with a zero diagonal, from XᵀX (overwritten). Raises ValueError if λ is
    too small to invert it."""
    gram = gram.astype(np.float64, copy=False)
    gram[np.diag_indices_from(gram)] += regularization
    factor, failed = scipy.linalg.lapack.dpotrf(gram, lower=1, overwrite_a=1)
    if failed:
        raise ValueError(f"regularization: {regularization} is too small, the co-occurrences are singular")
    inverse, _ = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights.astype(np.float32)


def strongest(weights: NDArray[np.float32], kept: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Columns and values of the `kept` coefficients of largest magnitude in each row."""
    n = len(weights)
    column = (
        np.argpartition(-np.abs(weights), kept - 1, axis=1)[:, :kept]
        if kept < n
        else np.tile(np.arange(n), (n, 1))
    )
    return column.astype(np.int32), np.take_along_axis(weights, column, axis=1)
