"""Alternating least squares on implicit feedback (Hu, Koren, Volinsky 2008, doi 10.1109/ICDM.2008.22).

The library `implicit` fits it; numpy alone serves it. A user is folded in from recent items on every request,
so that a click changes the next answer. With Y the item vectors [n_items, f], and C the confidences of the
user's items U:

    x = (YᵀY + λI + Y_Uᵀ (C − I) Y_U)⁻¹ Y_Uᵀ C 1

YᵀY + λI (the Gram matrix) is computed once; the rest is a rank-|U| update and one Cholesky solve. These
matrices are small, so serve with one BLAS thread (`threadpoolctl.threadpool_limits(1, "blas")` or
OPENBLAS_NUM_THREADS=1): waking a thread pool costs more than the computation.

The defaults were chosen on Online Retail II, on the window before the one that the offline report tests on.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.linalg.lapack import sposv

from models.algorithms.base import Algorithm, Variant, parameters
from models.algorithms.popularity import NO_DECAY_DAYS, relative_popularity
from models.algorithms.time_decay import DAY_S, recent_weights, user_item
from models.recommender import Catalogue, Interactions, ProgressCallback, Query, no_progress


@dataclass(frozen=True, slots=True)
class AlsParams:
    """Parameters of the fit and of the fold-in; half-lives in days, `recent_places` a half-life in places.

    `confidence` is added to 1 per unit of decayed weight (α of the paper). `trend` is the weight of the
    items' decayed popularity in the score: an item bias that changes with time (0: plain ALS). `threads` of
    the fit (0: all cores; the fit is reproducible with 1 only).
    """

    factors: int = 64
    regularization: float = 3.0
    iterations: int = 15
    confidence: float = 10.0
    half_life_days: float = 45.0
    recent_places: float = 20.0
    trend: float = 0.3
    trend_days: float = 5.0
    threads: int = 0


@dataclass(frozen=True, eq=False)
class Als(Algorithm):
    """Item vectors `factors` float32 [n_items, f], and popularity `trend` float32 [n_items], the largest 1.

    Derived: `gram` float32 [f, f], λI included; `unit`, the item vectors at length 1, for cosines; `bias`,
    the weighted trend.
    """

    algorithm = "als"
    params_type = AlsParams
    reason = "liked by people like you"
    similar_reason = "liked by the same people"
    variants = (Variant("als, no decay, no trend", {"half_life_days": NO_DECAY_DAYS, "trend": 0.0}),)

    items: NDArray[np.str_]
    factors: NDArray[np.float32]
    gram: NDArray[np.float32]
    unit: NDArray[np.float32]
    trend: NDArray[np.float32]
    bias: NDArray[np.float32]
    params: AlsParams

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
        """Factorise what happened up to `now_s`. Takes seconds to minutes on `threads` cores."""
        chosen = parameters(AlsParams, params)
        half_life_s = chosen.half_life_days * DAY_S
        confidence = user_item(interactions, len(catalogue), now_s=now_s, half_life_s=half_life_s)
        confidence.data = 1.0 + np.float32(chosen.confidence) * confidence.data
        factors = _factorise(confidence, chosen, seed, progress)
        trend = relative_popularity(
            interactions, len(catalogue), now_s=now_s, half_life_days=chosen.trend_days
        )
        return cls.from_factors(catalogue.items, factors, trend, chosen)

    @classmethod
    def from_factors(
        cls,
        items: NDArray[np.str_],
        factors: NDArray[np.float32],
        trend: NDArray[np.float32],
        params: AlsParams,
    ) -> Self:
        """A model from its item vectors and trend; computes the derived arrays."""
        gram = factors.T @ factors + params.regularization * np.eye(factors.shape[1], dtype=np.float32)
        norm = np.linalg.norm(factors, axis=1, keepdims=True)
        unit, bias = factors / np.maximum(norm, 1e-12), np.float32(params.trend) * trend
        return cls(items, factors, gram.astype(np.float32), unit, trend, bias, params)

    def fold_in(self, item: NDArray[np.int32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vector, float32 [f], of a user with distinct items int32 [m] of decayed weight float32 [m]."""
        vectors = self.factors.take(item, axis=0)
        extra = np.float32(self.params.confidence) * weight  # C − I
        system = self.gram + (vectors.T * extra) @ vectors
        user: NDArray[np.float32]
        _, user, failed = sposv(system, vectors.T @ (extra + 1.0))
        if failed:  # not positive definite in float32; happens with λ = 0 only
            user = np.linalg.lstsq(system, vectors.T @ (extra + 1.0), rcond=None)[0]
        return user

    def scores(self, query: Query) -> NDArray[np.float32] | None:
        """Predicted preference of the folded-in user for every item, plus the weighted trend."""
        item, weight = recent_weights(query, self.params.half_life_days * DAY_S, self.params.recent_places)
        if not len(item):
            return None
        scores: NDArray[np.float32] = self.factors @ self.fold_in(item, weight)
        scores += self.bias
        return scores

    def similarity(self, item: int) -> NDArray[np.float32]:
        """Cosine of every item's vector with the vector of `item`."""
        cosine: NDArray[np.float32] = self.unit @ self.unit[item]
        return cosine

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, object]]:
        """Arrays and JSON parameters, without the derived arrays."""
        return {"items": self.items, "factors": self.factors, "trend": self.trend}, asdict(self.params)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], params: Mapping[str, object]) -> Self:
        """Inverse of `to_arrays`."""
        return cls.from_factors(**arrays, params=parameters(AlsParams, params))


def _factorise(
    confidence: scipy.sparse.csr_matrix, params: AlsParams, seed: int, progress: ProgressCallback
) -> NDArray[np.float32]:
    """Item vectors, float32 [n_items, f], of a confidence matrix (float32 CSR [n_users, n_items])."""
    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    def report(iteration: int, *_: object) -> None:
        progress(iteration + 1, params.iterations, "als")

    # implicit starts its own threads; BLAS threads below them slow it down
    with threadpool_limits(1, "blas"):
        library = AlternatingLeastSquares(
            factors=params.factors,
            regularization=params.regularization,
            iterations=params.iterations,
            num_threads=params.threads,
            random_state=seed,
        )
        library.fit(confidence, show_progress=False, callback=report)
    return np.asarray(library.item_factors, np.float32)
