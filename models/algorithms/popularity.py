"""Popularity with exponential time decay: what many people wanted lately, overall or within a category.

Two clocks run side by side: a fast one for trends and a slow one for lasting favourites. At the moment of
the fit the fast one leads; the longer a model is served without new data, the more of the trend has faded:
`now_s` of the query matters. The defaults were chosen on Online Retail II, on the window before the one that
the report tests on.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.algorithms.time_decay import DAY_S, decayed, known_at, parameters
from models.algorithms.top_n import Ranked
from models.recommender import Catalogue, Interactions, Progress, Query, silent


@dataclass(frozen=True, slots=True)
class PopularityParams:
    """Half-lives of the two clocks in days, and the share of the slow one at the moment of the fit."""

    fast_days: float = 5.0
    slow_days: float = 90.0
    slow_share: float = 0.02


@dataclass(frozen=True, eq=False)
class Popularity(Ranked):
    """Decayed number of buyers of each item. `fast`, `slow`: float32 [n_items], at `fitted_s`, largest 1.

    `category`: int32 [n_items], codes into `categories` (unicode [n_categories]).
    """

    algorithm = "popularity"
    params_type = PopularityParams
    reason = "popular now"
    similar_reason = "popular in the same category"

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
        progress: Progress = silent,
        **params: Any,
    ) -> "Popularity":
        """Count what happened up to `now_s`; each user speaks once for an item, with the latest
        interaction."""
        chosen = parameters(PopularityParams, params)
        clocks = []
        for done, days in enumerate((chosen.fast_days, chosen.slow_days), start=1):
            counts = popularity(interactions, len(catalogue), now_s=now_s, half_life_s=days * DAY_S)
            clocks.append(counts / max(counts.max(initial=0.0), 1e-12))
            progress(done, 2, "popularity")
        names, codes = np.unique(catalogue.category, return_inverse=True)
        fast, slow = (clock.astype(np.float32) for clock in clocks)
        return cls(catalogue.items, fast, slow, codes.astype(np.int32), names, now_s, chosen)

    def scores(self, query: Query) -> NDArray[np.float32]:
        """Popularity at `query.now_s`; with a known `query.category` its items stand above all others."""
        scores = self._at(query.now_s)
        if query.category is not None:
            scores = scores + (self.category == self._code(query.category)) * np.float32(2.0)
        return scores

    def similarity(self, item: int) -> NDArray[np.float32]:
        """Popularity at the moment of the fit; the item's category stands above all others."""
        return self._at(self.fitted_s) + (self.category == self.category[item]) * np.float32(2.0)

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON parameters."""
        arrays = {name: getattr(self, name) for name in ("items", "fast", "slow", "category", "categories")}
        return arrays, {"fitted_s": self.fitted_s, **asdict(self.params)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], params: Mapping[str, Any]) -> "Popularity":
        """Inverse of `to_arrays`."""
        chosen = {name: value for name, value in params.items() if name != "fitted_s"}
        return cls(**arrays, fitted_s=params["fitted_s"], params=parameters(PopularityParams, chosen))

    def _at(self, now_s: float) -> NDArray[np.float32]:
        """Both clocks at `now_s`, float32 [n_items] in [0, 1]. Only the clocks' ratio moves an order."""
        age_days = max(now_s - self.fitted_s, 0.0) / DAY_S
        fade = 2.0 ** (-age_days / self.params.fast_days + age_days / self.params.slow_days)
        fast = (1.0 - self.params.slow_share) * fade
        total = fast + self.params.slow_share
        return np.float32(fast / total) * self.fast + np.float32(self.params.slow_share / total) * self.slow

    def _code(self, category: str) -> int:
        """Code of a category; -2, which no item has, for an unknown one."""
        place = int(np.searchsorted(self.categories, category))
        found = place < len(self.categories) and self.categories[place] == category
        return place if found else -2


def popularity(
    interactions: Interactions, n_items: int, *, now_s: float, half_life_s: float
) -> NDArray[np.float64]:
    """Decayed number of users of each item up to `now_s`, float64 [n_items].

    A user speaks once for an item, with the interaction that weighs most: nobody makes an item popular alone.
    """
    rows = known_at(interactions, now_s)
    weight = decayed(interactions.at[rows], interactions.kind[rows], now_s=now_s, half_life_s=half_life_s)
    pair = interactions.user[rows].astype(np.int64) * n_items + interactions.item[rows]
    distinct, where = np.unique(pair, return_inverse=True)
    heaviest = np.zeros(len(distinct))
    np.maximum.at(heaviest, where, weight)
    return np.bincount(distinct % max(n_items, 1), weights=heaviest, minlength=n_items)
