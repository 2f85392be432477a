"""Popularity upside down: valid slates of eligible items, the least wanted first.

Not a recommender anybody should want: demos and tests enter it as a challenger to see it lose and be rolled
back. It fails as real models fail, with well-formed answers that nobody clicks.
"""

import numpy as np
from numpy.typing import NDArray

from models.algorithms.popularity import Popularity
from models.recommender import Query


class Inverted(Popularity):
    """What sold least and longest ago first; within a category as overall. What never sold comes last: it
    may be new, and new items are no failure."""

    algorithm = "inverted"
    reason = "least popular (a broken model, on purpose)"
    similar_reason = "least popular (a broken model, on purpose)"

    def scores(self, query: Query) -> NDArray[np.float32]:
        """Popularity's scores, reversed."""
        return _reversed(super().scores(query))

    def similarity(self, item: int) -> NDArray[np.float32]:
        """Popularity's similarities, reversed."""
        return _reversed(super().similarity(item))


def _reversed(popular: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(popular > 0, -popular, np.float32(-4.0))
