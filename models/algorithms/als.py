"""Alternating least squares on implicit feedback (Hu, Koren, Volinsky 2008, doi 10.1109/ICDM.2008.22).

Fitted by the library `implicit`; served by numpy alone: a user is *folded in* from recent items on every
request, so that a click changes the next answer. With Y the item vectors [n_items, f], C the confidences of
the user's items U:

    x = (YᵀY + λI + Y_Uᵀ (C − I) Y_U)⁻¹ Y_Uᵀ C 1

YᵀY + λI is computed once (the Gram matrix), the rest is a rank-|U| update and one Cholesky solve. These
matrices are small: serve with one BLAS thread (`threadpoolctl.threadpool_limits(1, "blas")` or
OPENBLAS_NUM_THREADS=1), waking a pool costs more than the work.

The defaults were chosen on Online Retail II, on the window before the one that the report tests on.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import sposv

from models.algorithms.popularity import popularity
from models.algorithms.time_decay import DAY_S, parameters, recent_weights, user_item
from models.algorithms.top_n import Ranked
from models.recommender import Catalogue, Interactions, Progress, Query, silent


@dataclass(frozen=True, slots=True)
class AlsParams:
    """`confidence` is added to 1 per unit of decayed weight (α of the paper); half-lives in days.

    `trend`: weight of the items' decayed popularity in the score (an item bias that knows the time; 0: plain
    ALS). `threads`: of the fit; 0: all cores.
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
class Als(Ranked):
    """Item vectors `factors` float32 [n_items, f] and the popularity `trend` float32 [n_items], largest 1.

    Derived: `gram` float32 [f, f], λI included; `unit`, the item vectors at length 1, for cosines; `bias`,
    the weighted trend.
    """

    algorithm = "als"
    params_type = AlsParams
    reason = "liked by people like you"
    similar_reason = "liked by the same people"

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
        progress: Progress = silent,
        **params: Any,
    ) -> "Als":
        """Factorise what happened up to `now_s`. Takes seconds to minutes, on `threads` cores."""
        chosen = parameters(AlsParams, params)
        matrix = user_item(
            interactions, len(catalogue), now_s=now_s, half_life_s=chosen.half_life_days * DAY_S
        )
        matrix.data = 1.0 + np.float32(chosen.confidence) * matrix.data
        factors = _factorise(matrix, chosen, seed, progress)
        counts = popularity(interactions, len(catalogue), now_s=now_s, half_life_s=chosen.trend_days * DAY_S)
        trend = (counts / max(counts.max(initial=0.0), 1e-12)).astype(np.float32)
        return cls.of(catalogue.items, factors, trend, chosen)

    @classmethod
    def of(
        cls,
        items: NDArray[np.str_],
        factors: NDArray[np.float32],
        trend: NDArray[np.float32],
        params: AlsParams,
    ) -> "Als":
        """A model from its item vectors; what is derived from them is computed here."""
        gram = factors.T @ factors + params.regularization * np.eye(factors.shape[1], dtype=np.float32)
        norm = np.linalg.norm(factors, axis=1, keepdims=True)
        unit, bias = factors / np.maximum(norm, 1e-12), np.float32(params.trend) * trend
        return cls(items, factors, gram.astype(np.float32), unit, trend, bias, params)

    def fold_in(self, item: NDArray[np.int32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vector, float32 [f], of a user with these distinct items, int32 [m], of decayed weight float32
        [m]."""
        vectors = self.factors.take(item, axis=0)
        extra = np.float32(self.params.confidence) * weight  # C − 1
        system = self.gram + (vectors.T * extra) @ vectors
        _, user, failed = sposv(system, vectors.T @ (extra + 1.0))
        if failed:  # not positive definite in float32: only with λ = 0
            user = np.linalg.lstsq(system, vectors.T @ (extra + 1.0), rcond=None)[0]
        return user

    def scores(self, query: Query) -> NDArray[np.float32] | None:
        """Predicted preference of the folded-in user for every item, plus the weighted trend."""
        item, weight = recent_weights(query, self.params.half_life_days * DAY_S, self.params.recent_places)
        if not len(item):
            return None
        scores = self.factors @ self.fold_in(item, weight)
        scores += self.bias
        return scores

    def similarity(self, item: int) -> NDArray[np.float32]:
        """Cosine of every item's vector with this one's."""
        return self.unit @ self.unit[item]

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON parameters; what `of` derives is left out."""
        return {"items": self.items, "factors": self.factors, "trend": self.trend}, asdict(self.params)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], params: Mapping[str, Any]) -> "Als":
        """Inverse of `to_arrays`."""
        return cls.of(**arrays, params=parameters(AlsParams, dict(params)))


def _factorise(matrix: Any, params: AlsParams, seed: int, progress: Progress) -> NDArray[np.float32]:
    """Item vectors float32 [n_items, f] of a confidence matrix (CSR [n_users, n_items])."""
    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    def report(iteration: int, *_: Any) -> None:
        progress(iteration + 1, params.iterations, "als")

    with threadpool_limits(
        1, "blas"
    ):  # implicit has threads of its own; BLAS threads under them slow it down
        library = AlternatingLeastSquares(
            factors=params.factors,
            regularization=params.regularization,
            iterations=params.iterations,
            num_threads=params.threads,
            random_state=seed,
        )
        library.fit(matrix, show_progress=False, callback=report)
    return np.asarray(library.item_factors, np.float32)
