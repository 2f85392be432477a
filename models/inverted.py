"""Popularity upside down: valid slates of eligible items, the least wanted first.

Not a recommender anybody should want: demos and tests enter it as a challenger to see it lose and be rolled
back. It fails as real models fail, with well-formed answers that nobody clicks.
"""

from models.contract import Query
from models.popularity import Popularity


class Inverted(Popularity):
    """Popularity with its order reversed, within a category as overall."""

    algorithm = "inverted"
    reason = "least popular (a broken model, on purpose)"
    similar_reason = "least popular (a broken model, on purpose)"

    def scores(self, query: Query):  # noqa: D102 (as Popularity)
        return -super().scores(query)

    def similarity(self, item: int):  # noqa: D102
        return -super().similarity(item)
