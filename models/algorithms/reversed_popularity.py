"""Popularity reversed: valid slates of eligible items, the least popular first.

The model is broken on purpose. Demos and tests enter it as a challenger to see it lose and be rolled back. It
fails as real models fail: its answers are well-formed, and users do not click them.
"""

import numpy as np
from numpy.typing import NDArray

from models.algorithms.popularity import Popularity
from models.recommender import Query

NEVER_SOLD = np.float32(-4.0)  # below every reversed score, which is -3 at least


class ReversedPopularity(Popularity):
    """The items that sold least and longest ago first, overall or within a category.

    Items that never sold come last, because they may be new.
    """

    algorithm = "reversed_popularity"
    former_names = ("inverted",)
    reason = "least popular (a broken model, on purpose)"
    similar_reason = "least popular (a broken model, on purpose)"
    broken_on_purpose = True
    variants = ()

    def scores(self, query: Query) -> NDArray[np.float32]:
        """Scores of `Popularity`, reversed."""
        return _reversed(super().scores(query))

    def similarity(self, item: int) -> NDArray[np.float32]:
        """Similarities of `Popularity`, reversed."""
        return _reversed(super().similarity(item))


def _reversed(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(scores > 0, -scores, NEVER_SOLD)
