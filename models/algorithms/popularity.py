"""Popularity with exponential time decay, overall or within a category.

Two half-lives are combined: a fast one for trends and a slow one for lasting favourites. The fast one
dominates at the time of the fit. The longer a model is served without new data, the more its trend has faded,
so the order depends on `Query.now_s`. The defaults were chosen on Online Retail II, on the window before the
one that the offline report tests on.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from models.algorithms.base import Algorithm, Variant, parameters
from models.algorithms.time_decay import DAY_S, decayed, rows_until
from models.recommender import Catalogue, Interactions, ProgressCallback, Query, no_progress

NO_DECAY_DAYS = 1e6
ALL_TIME = {"fast_days": NO_DECAY_DAYS, "slow_days": NO_DECAY_DAYS}
CATEGORY_BONUS = np.float32(2.0)  # scores are at most 1, so the items of the category come first


@dataclass(frozen=True, slots=True)
class PopularityParams:
    """Fast and slow half-life in days, and the share of the slow one at the time of the fit."""

    fast_days: float = 5.0
    slow_days: float = 90.0
    slow_share: float = 0.02


@dataclass(frozen=True, eq=False)
class Popularity(Algorithm):
    """Decayed number of users of each item.

    fast, slow: float32 [n_items] at time `fitted_s`, the largest is 1; category: int32 [n_items], codes into
    `categories` (unicode [n_categories], sorted).
    """

    algorithm = "popularity"
    params_type = PopularityParams
    reason = "popular now"
    similar_reason = "popular in the same category"
    personalised = False
    variants: ClassVar[tuple[Variant, ...]] = (
        Variant("popularity, all time", ALL_TIME),
        Variant("popularity, last ten days", ALL_TIME, learn_days=10.0),
    )

    items: NDArray[np.str_]
    fast: NDArray[np.float32]
    slow: NDArray[np.float32]
    category: NDArray[np.int32]
    categories: NDArray[np.str_]
    fitted_s: float
    params: PopularityParams

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
        """Count the users of each item up to `now_s`, at both half-lives."""
        chosen = parameters(PopularityParams, params)
        fast = relative_popularity(interactions, len(catalogue), now_s=now_s, half_life_days=chosen.fast_days)
        progress(1, 2, cls.algorithm)
        slow = relative_popularity(interactions, len(catalogue), now_s=now_s, half_life_days=chosen.slow_days)
        progress(2, 2, cls.algorithm)
        categories, code = np.unique(catalogue.category, return_inverse=True)
        return cls(catalogue.items, fast, slow, code.astype(np.int32), categories, now_s, chosen)

    def scores(self, query: Query) -> NDArray[np.float32]:
        """Popularity at `query.now_s`; the items of a known `query.category` score above all others."""
        scores = self._popularity_at(query.now_s)
        if query.category is not None:
            scores = scores + (self.category == self._code(query.category)) * CATEGORY_BONUS
        return scores

    def similarity(self, item: int) -> NDArray[np.float32]:
        """Popularity at the time of the fit; the items of `item`'s category score above all others."""
        bonus: NDArray[np.float32] = (self.category == self.category[item]) * CATEGORY_BONUS
        return self._popularity_at(self.fitted_s) + bonus

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, object]]:
        """Arrays and JSON parameters; `fitted_s` is stored among the parameters."""
        arrays = {name: getattr(self, name) for name in ("items", "fast", "slow", "category", "categories")}
        return arrays, {"fitted_s": self.fitted_s, **asdict(self.params)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], params: Mapping[str, Any]) -> Self:
        """Inverse of `to_arrays`."""
        chosen = {name: value for name, value in params.items() if name != "fitted_s"}
        return cls(**arrays, fitted_s=params["fitted_s"], params=parameters(PopularityParams, chosen))

    def _popularity_at(self, now_s: float) -> NDArray[np.float32]:
        """Mean of `fast` and `slow`, float32 [n_items] in [0, 1], with the weights that remain at `now_s`."""
        age_days = max(now_s - self.fitted_s, 0.0) / DAY_S
        fade = 2.0 ** (-age_days / self.params.fast_days + age_days / self.params.slow_days)
        fast = (1.0 - self.params.slow_share) * fade
        total = fast + self.params.slow_share
        slow = self.params.slow_share
        mean: NDArray[np.float32] = (
            np.float32(fast / total) * self.fast + np.float32(slow / total) * self.slow
        )
        return mean

    def _code(self, category: str) -> int:
        """Code of a category; -2, which no item has, for an unknown one."""
        place = int(np.searchsorted(self.categories, category))
        return place if place < len(self.categories) and self.categories[place] == category else -2


def popularity(
    interactions: Interactions, n_items: int, *, now_s: float, half_life_s: float
) -> NDArray[np.float64]:
    """Decayed number of users of each item up to `now_s`, float64 [n_items].

    A user counts once per item, by the interaction of largest weight, so that one user can't make an item
    popular.
    """
    rows = rows_until(interactions, now_s)
    weight = decayed(interactions.at[rows], interactions.kind[rows], now_s=now_s, half_life_s=half_life_s)
    pair = interactions.user[rows].astype(np.int64) * n_items + interactions.item[rows]
    distinct, index = np.unique(pair, return_inverse=True)
    heaviest = np.zeros(len(distinct))
    np.maximum.at(heaviest, index, weight)
    return np.bincount(distinct % max(n_items, 1), weights=heaviest, minlength=n_items).astype(np.float64)


def relative_popularity(
    interactions: Interactions, n_items: int, *, now_s: float, half_life_days: float
) -> NDArray[np.float32]:
    """`popularity` divided by its largest value, float32 [n_items]; zeros without interactions."""
    counts = popularity(interactions, n_items, now_s=now_s, half_life_s=half_life_days * DAY_S)
    relative: NDArray[np.float32] = (counts / max(counts.max(initial=0.0), 1e-12)).astype(np.float32)
    return relative
