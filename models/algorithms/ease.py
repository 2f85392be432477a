"""EASE with time decay: a linear item-item model in closed form (Steck 2019, doi 10.1145/3308558.3313710).

With X the decayed user-item matrix, P = (XᵀX + λI)⁻¹ and B = −P / diag(P) with a zero diagonal, the score of
item j is Σ_i x_i B_ij over the user's recent items i. Only the `kept` largest coefficients of each row are
stored, so that an answer reads recent × kept numbers, and a model holds n_items × kept numbers instead of
n_items².

The defaults were chosen on Online Retail II, on the window before the one that the offline report tests on.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from models.algorithms.base import Algorithm, parameters
from models.algorithms.popularity import relative_popularity
from models.algorithms.time_decay import DAY_S, recent_weights, user_item
from models.recommender import Catalogue, Interactions, ProgressCallback, Query, no_progress


@dataclass(frozen=True, slots=True)
class EaseParams:
    """λ (`regularization`), half-lives of the data (`half_life_days`) and of the user's recent items
    (`recent_days`; in places: `recent_places`), coefficients `kept` per item, weight of the items' decayed
    popularity (`trend`) and its half-life (`trend_days`). Half-lives are in days.
    """

    regularization: float = 50.0
    half_life_days: float = 30.0
    recent_days: float = 60.0
    recent_places: float = 50.0
    kept: int = 256
    trend: float = 0.01
    trend_days: float = 5.0


@dataclass(frozen=True, eq=False)
class Ease(Algorithm):
    """Row i holds the coefficients of item i that were kept: `column` int32 and `value` float32, both
    [n_items, kept]; `trend` float32 [n_items], popularity, the largest 1."""

    algorithm = "ease"
    former_names = ("linear",)
    params_type = EaseParams
    reason = "goes with what you chose"
    similar_reason = "goes together"

    items: NDArray[np.str_]
    column: NDArray[np.int32]
    value: NDArray[np.float32]
    trend: NDArray[np.float32]
    params: EaseParams

    @classmethod
    def fit(
        cls,
        interactions: Interactions,
        catalogue: Catalogue,
        *,
        now_s: float,
        seed: int = 0,
        progress: ProgressCallback = no_progress,
        **params: Any,
    ) -> Self:
        """Invert one matrix [n_items, n_items]: O(n_items³) time once, 8·n_items² bytes while fitting."""
        chosen = parameters(EaseParams, params)
        half_life_s = chosen.half_life_days * DAY_S
        matrix = user_item(interactions, len(catalogue), now_s=now_s, half_life_s=half_life_s)
        matrix.data = np.minimum(matrix.data, 1.0)
        progress(1, 3, "ease: co-occurrence")
        coefficients = ease((matrix.T @ matrix).toarray(), chosen.regularization)
        progress(2, 3, "ease: inverse")
        column, value = largest_of_rows(coefficients, min(chosen.kept, len(catalogue)))
        trend = relative_popularity(
            interactions, len(catalogue), now_s=now_s, half_life_days=chosen.trend_days
        )
        progress(3, 3, "ease: largest coefficients")
        return cls(catalogue.items, column, value, trend, chosen)

    def scores(self, query: Query) -> NDArray[np.float32] | None:
        """Decayed weights of recent items times their coefficients, plus the weighted trend."""
        item, weight = recent_weights(query, self.params.recent_days * DAY_S, self.params.recent_places)
        if not len(item):
            return None
        terms = (np.minimum(weight, 1.0)[:, None] * self.value[item]).ravel()
        sums = np.bincount(self.column[item].ravel(), weights=terms, minlength=len(self.items))
        return sums.astype(np.float32) + np.float32(self.params.trend) * self.trend

    def similarity(self, item: int) -> NDArray[np.float32]:
        """Coefficients of `item`; 0 where none was kept."""
        scores = np.zeros(len(self.items), np.float32)
        scores[self.column[item]] = self.value[item]
        return scores

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, object]]:
        """Arrays and JSON parameters."""
        arrays = {name: getattr(self, name) for name in ("items", "column", "value", "trend")}
        return arrays, asdict(self.params)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], params: Mapping[str, object]) -> Self:
        """Inverse of `to_arrays`."""
        return cls(**arrays, params=parameters(EaseParams, params))


def ease(gram: NDArray[np.floating], regularization: float) -> NDArray[np.float32]:
    """Coefficients B, float32 [n, n] with a zero diagonal, from the Gram matrix XᵀX [n, n] (overwritten).

    Raises ValueError if `regularization` (λ) is too small for the matrix to be inverted.
    """
    gram = gram.astype(np.float64, copy=False)
    gram[np.diag_indices_from(gram)] += regularization
    factor, failed = scipy.linalg.lapack.dpotrf(gram, lower=1, overwrite_a=1)
    if failed:
        raise ValueError(
            f"regularization: {regularization} is too small, because the co-occurrences are singular; "
            "raise it"
        )
    lower, _ = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    inverse: NDArray[np.float64] = np.tril(lower) + np.tril(lower, -1).T
    coefficients = -inverse / np.diag(inverse)
    np.fill_diagonal(coefficients, 0.0)
    return coefficients.astype(np.float32)


def largest_of_rows(
    coefficients: NDArray[np.float32], kept: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Columns int32 and values float32, both [n, kept], of the largest magnitudes in each row of [n, n]."""
    n = len(coefficients)
    column = (
        np.argpartition(-np.abs(coefficients), kept - 1, axis=1)[:, :kept]
        if kept < n
        else np.tile(np.arange(n), (n, 1))
    )
    return column.astype(np.int32), np.take_along_axis(coefficients, column, axis=1)
